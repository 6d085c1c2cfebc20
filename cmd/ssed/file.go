package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds the configuration file, against a path that is something else.
const maxFileBytes = 1 << 20

// applyFile gives the flags that neither the command line nor the environment has
// the values of the file, and names everything that is wrong in it. Keys that only
// other commands know are checked and left alone.
func (inv *invocation) applyFile(path string) error {
	var p problems
	for _, entry := range p.file(path) {
		flag := inv.known[entry.key]
		if flag == nil {
			p.add("--config", "%s: unknown key %.60q: the keys are the names of flags, see ssed serve --help", entry.where(path), entry.key)
			continue
		}
		read := entry.values
		if flag.Name == policyFlag {
			read = entry.policies
		}
		values, err := read(flag.Target.Kind() == reflect.Slice)
		if err != nil {
			p.add("--config", "%s: %s: %w", entry.where(path), entry.key, err)
			continue
		}
		if values != nil && inv.origin(flag.Name) == fromDefault && inv.set(flag.Name, values) {
			inv.origins[flag.Name] = origin(entry.where(filepath.Base(path)))
		}
	}
	return errors.Join(p...)
}

// located adds to every problem that names a flag where its value comes from: in a file of
// a hundred lines, or an environment, that is what one looks for.
func (inv *invocation) located(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, part := range joined.Unwrap() {
			all = append(all, inv.located(part))
		}
		return errors.Join(all...)
	}
	flag, _, _ := strings.Cut(err.Error(), ":")
	from := inv.origin(strings.TrimPrefix(flag, "--"))
	if from == fromDefault || from == fromFlag {
		return err
	}
	return fmt.Errorf("%w (%s)", err, from)
}

// set gives a flag its value; false when the command has no such flag.
func (inv *invocation) set(name string, values []string) bool {
	for _, flag := range inv.node.Flags {
		if flag.Name != name {
			continue
		}
		if flag.Target.Kind() == reflect.Slice {
			flag.Target.Set(reflect.ValueOf(values))
		} else {
			flag.Target.SetString(values[0])
		}
		return true
	}
	return false
}

// fileEntry is a key and its value.
type fileEntry struct {
	key   string
	line  int
	value *yaml.Node
}

func (e fileEntry) where(path string) string { return fmt.Sprintf("%s line %d", path, e.line) }

// file reads the entries of the file in their order. A key that comes again is left
// out and named.
func (p *problems) file(path string) []fileEntry {
	mapping, err := readMapping(path)
	if err != nil {
		p.add("--config", "%s: %w", path, err)
		return nil
	}
	var entries []fileEntry
	lines := map[string]int{}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key := mapping.Content[i]
		entry := fileEntry{key: key.Value, line: key.Line, value: mapping.Content[i+1]}
		if first, twice := lines[entry.key]; twice {
			p.add("--config", "%s: %.60q is there already, in line %d", entry.where(path), entry.key, first)
			continue
		}
		lines[entry.key] = entry.line
		entries = append(entries, entry)
	}
	return entries
}

var (
	errFileTooLarge = fmt.Errorf("larger than %d bytes", maxFileBytes)
	errNoMapping    = errors.New("not a list of keys with values, such as redis-url: redis://127.0.0.1")
	errDocuments    = errors.New("more than one document")
)

// readMapping reads the one document of the file. An empty one has no keys.
func readMapping(path string) (*yaml.Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the path is told already
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		return nil, errors.Unwrap(err)
	case len(text) > maxFileBytes:
		return nil, errFileTooLarge
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, more yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return &yaml.Node{}, nil
	} else if err != nil {
		return nil, withoutAnchor(err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errDocuments
	}
	switch root := document.Content[0]; {
	case root.Kind == yaml.MappingNode:
		return root, nil
	case root.ShortTag() == "!!null":
		return &yaml.Node{}, nil
	}
	return nil, errNoMapping
}

// unknownAnchor is how the parser complains of a value such as *x, which can be a secret
// that somebody forgot to quote, and which it repeats.
var unknownAnchor = regexp.MustCompile("unknown anchor '.*' referenced")

func withoutAnchor(err error) error {
	return errors.New(unknownAnchor.ReplaceAllLiteralString(err.Error(), "a value that begins with * must be quoted"))
}

var (
	errOneValue  = errors.New("a single value is expected, not a list or nested keys")
	errNested    = errors.New("a list of values is expected, without nested keys or lists")
	errEmptyItem = errors.New("a value of the list is empty")
)

// values reads the value as text, as it stands in the file: 0660 and on are not turned
// into 432 and true. A flag that takes a list takes one of YAML, or text with commas
// as on the command line. A key without a value is ignored, like an empty variable.
func (e fileEntry) values(list bool) ([]string, error) {
	value := resolve(e.value)
	switch {
	case value.Kind == yaml.SequenceNode && list:
		return items(value)
	case value.Kind != yaml.ScalarNode && list:
		return nil, errNested
	case value.Kind != yaml.ScalarNode:
		return nil, errOneValue
	case value.ShortTag() == "!!null":
		return nil, nil
	case list:
		return append([]string{}, kong.SplitEscaped(value.Value, ',')...), nil
	}
	return []string{value.Value}, nil
}

func items(list *yaml.Node) ([]string, error) {
	texts := []string{}
	for _, item := range list.Content {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode {
			return nil, errNested
		}
		if item.ShortTag() == "!!null" {
			return nil, errEmptyItem
		}
		texts = append(texts, item.Value)
	}
	return texts, nil
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
