package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// configCommand is ssed config.
type configCommand struct{ flags }

// Help implements kong.HelpProvider.
func (configCommand) Help() string {
	return `Give it the flags, the environment and the file of "ssed serve". You can use the output as the file. Passwords and tokens are ` + hidden + ` in it: put them in, or give them by files of their own. Bad values are named on standard error, with exit code 2.`
}

// hidden stands for a secret. As a token it is too short, as a password of Redis it is
// refused: a file that was printed and not completed does not start anything.
const hidden = "HIDDEN"

// printConfig writes the values that serve would use as a file that it takes.
func printConfig(w io.Writer, inv *invocation) {
	fmt.Fprintln(w, "# The effective configuration of", "ssed", versionText())
	group := ""
	for _, flag := range inv.node.Flags {
		if inv.known[fileKey(flag.Name)] == nil {
			continue
		}
		if flag.Group.Title != group {
			group = flag.Group.Title
			fmt.Fprintf(w, "\n# %s\n", strings.TrimSuffix(group, ":"))
		}
		fmt.Fprintln(w, configLine(flag, inv.origin(flag.Name)))
	}
	if os.Getenv(envJWTSecret) != "" {
		fmt.Fprintf(w, "\n# The secret of tokens comes from $%s and is not shown.\n", envJWTSecret)
	}
}

// configLine is the line of a flag; a comment for one that has no value.
func configLine(flag *kong.Flag, from origin) string {
	if from == fromDefault && !flag.HasDefault {
		return fmt.Sprintf("# %s:  # not set", fileKey(flag.Name))
	}
	value := shown(flag)
	if flag.Name == policyFlag {
		value = policyNodes(flag.Target.Interface().([]string))
	}
	return fmt.Sprintf("%s: %s  # %s", fileKey(flag.Name), flowText(value), from)
}

// shown is the value of the flag without its secrets, as YAML.
func shown(flag *kong.Flag) *yaml.Node {
	if flag.Target.Kind() != reflect.Slice {
		return scalar(withoutSecrets(flag.Name, flag.Target.String()))
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for i := range flag.Target.Len() {
		list.Content = append(list.Content, scalar(withoutSecrets(flag.Name, flag.Target.Index(i).String())))
	}
	return list
}

func scalar(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool": // read back as the text that they are
		return n
	}
	n.SetString(text)
	if strings.ContainsAny(text, "\r\n") { // else a block over several lines
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// flowText is the value on one line.
func flowText(n *yaml.Node) string {
	text, err := yaml.Marshal(n)
	if err != nil { // of nodes made here there is none that cannot be written
		panic(err)
	}
	return strings.TrimSpace(string(text))
}

// withoutSecrets hides the admin token, and in a URL the password and what a query may
// hold. A URL that cannot be read is hidden whole, because any part may be the password,
// and so is one in which an @ remains: without a scheme, or with an unescaped /, ? or #
// in the password, what is in front of it is not taken for a user.
func withoutSecrets(name, value string) string {
	if value == "" {
		return ""
	}
	if name == "admin-token" {
		return hidden
	}
	isURL := strings.HasSuffix(name, "-url")
	u, err := url.Parse(value)
	switch {
	case isURL && isTornURL(value), name == "redis-url" && hasForeignParam(value):
		return hidden
	case !isURL && (err != nil || u.User == nil):
		return value
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), hidden)
	} else if u.User != nil { // some take a token there
		u.User = url.User(hidden)
	}
	if isURL && name != "redis-url" {
		u.RawQuery = hideQuery(u.Query())
	}
	return u.String()
}

// hasStrayAt takes a copy.
func hasStrayAt(u url.URL) bool {
	u.User = nil
	return strings.Contains(u.String(), "@")
}

// hideQuery keeps the names of the parameters.
func hideQuery(query url.Values) string {
	for name := range query {
		query[name] = []string{hidden}
	}
	return query.Encode()
}

// isLeftOut tells a URL of which the query was printed by ssed config and not completed.
func isLeftOut(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	for _, values := range u.Query() {
		if slices.Contains(values, hidden) {
			return true
		}
	}
	return false
}
