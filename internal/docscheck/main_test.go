package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFiguresOfADocument(t *testing.T) {
	d := parse("# A heading is not counted\n\nOne two three. Four `five six`\n[seven eight](x.md).\n\n" +
		"    code is not counted\n\n* An item: with two parts.\n\n| a | b |\n|---|---|\n| c d | `e f` |\n\n```\nnor this\n```\n")
	require.Equal(t, []string{"One two three", "Four code seven eight.", "An item: with two parts."}, d.sentences)
	require.Equal(t, 5, d.tableWords)
	require.Equal(t, []string{"x.md"}, d.links)
}

func TestDeadLinksAndLongSentencesAreNamed(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("word ", longSentence+1) + "."
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	file("b.md", "## The `end`, or not?\n")
	a := file("a.md", "[1](b.md) [2](b.md#the-end-or-not) [3](https://example.com/x) [4](none.md) [5](b.md#none) [6](#none)\n\n"+long+"\n")
	var out strings.Builder
	dead, err := check(&out, []string{a}, true)
	require.NoError(t, err)
	require.Equal(t, 3, dead)
	require.Contains(t, out.String(), "dead link none.md: no such file\n")
	require.Contains(t, out.String(), "dead link b.md#none: no such heading\n")
	require.Contains(t, out.String(), "dead link #none: no such heading\n")
	require.Contains(t, out.String(), a+": 32 words: word word")
}

func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	var paths []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../clients/*/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, found)
		paths = append(paths, found...)
	}
	var out strings.Builder
	dead, err := check(&out, paths, false)
	require.NoError(t, err)
	require.Zero(t, dead, out.String())
}
