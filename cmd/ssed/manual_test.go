package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

const manual = "../../deploy/ssed.1"

func TestDocsTellTheCommandsAndFlagsInTheManual(t *testing.T) {
	requireTable(t, manual, "commands", manualCommands(t)+manualComment)
	requireTable(t, manual, "flags", manualFlags(t)+manualComment)
}

// manualComment begins the line of a closing marker.
const manualComment = `.\" `

func manualCommands(t *testing.T) string {
	var c commandLine
	parser, err := newParser(&c, io.Discard)
	require.NoError(t, err)
	var b strings.Builder
	for _, node := range parser.Model.Children {
		if node.Type != kong.CommandNode || node.Hidden {
			continue
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(node.Name), roff(node.Help))
	}
	return b.String()
}

func manualFlags(t *testing.T) string {
	var b strings.Builder
	group := ""
	for _, f := range allFlags(t) {
		if f.Group != nil && f.Group.Title != group {
			group = f.Group.Title
			fmt.Fprintf(&b, ".SS %s\n", roff(group))
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff("--"+f.Name), roff(f.Help))
		if f.Default != "" {
			fmt.Fprintf(&b, "Default: %s.\n", roff(f.Default))
		}
	}
	return b.String()
}

// roff escapes a line of text: hyphens, which would be printed as dashes, backslashes,
// and what would make a request of the line.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
