// Command docscheck prints how easy the documents are to read, one line for each file of its
// arguments: its words, the words per sentence, the share of sentences over 30 words, the
// share of words that stand in tables. Below it names links that lead nowhere, and with -long
// the sentences over 30 words. It exits with 1 when a link is dead.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// longSentence is the number of words from which on most readers begin again at the front.
const longSentence = 30

func main() {
	long := flag.Bool("long", false, "print the sentences over 30 words")
	flag.Parse()
	dead, err := check(os.Stdout, flag.Args(), *long)
	if err != nil {
		fmt.Fprintln(os.Stderr, "docscheck:", err)
		os.Exit(1)
	}
	if dead > 0 {
		os.Exit(1)
	}
}

func check(w io.Writer, paths []string, long bool) (dead int, err error) {
	var all document
	var details strings.Builder
	fmt.Fprintf(w, "%-24s %6s %15s %8s %9s\n", "document", "words", "words/sentence", "over 30", "in tables")
	known := library{}
	for _, path := range paths {
		d, err := known.read(path)
		if err != nil {
			return 0, err
		}
		d.print(w, path)
		all.add(d)
		for _, link := range d.links {
			if problem := known.follow(path, link); problem != "" {
				dead++
				fmt.Fprintf(&details, "%s: dead link %s: %s\n", path, link, problem)
			}
		}
		if long {
			for _, s := range d.sentences {
				if n := len(strings.Fields(s)); n > longSentence {
					fmt.Fprintf(&details, "%s: %d words: %s\n", path, n, s)
				}
			}
		}
	}
	all.print(w, "all")
	_, err = io.WriteString(w, details.String())
	return dead, err
}

// library has the documents that were read, by path: many links lead to the same one.
type library map[string]document

func (l library) read(path string) (document, error) {
	path = filepath.Clean(path)
	if d, ok := l[path]; ok {
		return d, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return document{}, err
	}
	l[path] = parse(string(text))
	return l[path], nil
}

// document is what one file has. Code blocks and headings are in none of it.
type document struct {
	sentences  []string // of the prose
	tableWords int
	links      []string
	anchors    map[string]bool // of the headings
}

func (d *document) add(other document) {
	d.sentences = append(d.sentences, other.sentences...)
	d.tableWords += other.tableWords
}

func (d document) print(w io.Writer, name string) {
	words, long := 0, 0
	for _, s := range d.sentences {
		n := len(strings.Fields(s))
		words += n
		if n > longSentence {
			long++
		}
	}
	fmt.Fprintf(w, "%-24s %6d %15.1f %7.1f%% %8.1f%%\n", name, words+d.tableWords,
		share(words, len(d.sentences)), 100*share(long, len(d.sentences)), 100*share(d.tableWords, words+d.tableWords))
}

func share(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

var (
	linkTarget  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	linkText    = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
	codeSpan    = regexp.MustCompile("`[^`]*`")
	listItem    = regexp.MustCompile(`^\s*([*-]|\d+\.) `)
	sentenceEnd = regexp.MustCompile(`[.!?]["')*]* +`)
	notAnchor   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// parse takes Markdown apart as far as the documents here use it.
func parse(text string) document {
	d := document{anchors: map[string]bool{}}
	var paragraph []string
	end := func() {
		prose := linkText.ReplaceAllString(strings.Join(paragraph, " "), "$1")
		paragraph = nil
		prose = codeSpan.ReplaceAllString(prose, "code") // one word, whatever is in it
		for _, s := range sentenceEnd.Split(prose, -1) {
			if s = strings.TrimSpace(s); s != "" {
				d.sentences = append(d.sentences, s)
			}
		}
	}
	fenced := false
	for _, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "```") {
			fenced = !fenced
			end()
			continue
		}
		indented := len(paragraph) == 0 && strings.HasPrefix(line, "    ") // a code block
		if fenced || indented || strings.HasPrefix(trimmed, "<!--") {
			continue
		}
		for _, m := range linkTarget.FindAllStringSubmatch(codeSpan.ReplaceAllString(line, "code"), -1) {
			d.links = append(d.links, m[1])
		}
		switch {
		case trimmed == "":
			end()
		case strings.HasPrefix(line, "#"):
			end()
			d.anchors[anchor(strings.TrimLeft(line, "# "))] = true
		case strings.HasPrefix(trimmed, "|"):
			end()
			if row := strings.Trim(trimmed, "|-: "); row != "" {
				cells := linkText.ReplaceAllString(strings.ReplaceAll(row, "|", " "), "$1")
				d.tableWords += len(strings.Fields(codeSpan.ReplaceAllString(cells, "code")))
			}
		case listItem.MatchString(line):
			end()
			paragraph = append(paragraph, listItem.ReplaceAllString(line, ""))
		default:
			paragraph = append(paragraph, trimmed)
		}
	}
	end()
	return d
}

// anchor is the name that GitHub gives a heading.
func anchor(heading string) string {
	heading = linkText.ReplaceAllString(heading, "$1")
	return strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// follow says what is wrong with a link of a document, if it leads to a file. The network is
// not asked.
func (l library) follow(from, link string) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return ""
	}
	path, heading, _ := strings.Cut(link, "#")
	target := from
	if path != "" {
		target = filepath.Join(filepath.Dir(from), path)
	}
	if _, err := os.Stat(target); err != nil {
		return "no such file"
	}
	if heading == "" || filepath.Ext(target) != ".md" {
		return ""
	}
	d, err := l.read(target)
	if err != nil {
		return err.Error()
	}
	if !d.anchors[heading] {
		return "no such heading"
	}
	return ""
}
