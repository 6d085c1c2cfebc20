//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// documentedBatches are the programs under "Many messages at once" of docs/PUBLISHING.md,
// by language.
func documentedBatches(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/PUBLISHING.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## Many messages at once\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	programs := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)\n```([a-z]+)\n(.*?)```\n").FindAllStringSubmatch(section, -1) {
		programs[block[1]] = block[2]
	}
	return programs
}

// TestDocumentedBatchesArrive: the programs are run as they stand, but for the address.
func TestDocumentedBatchesArrive(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--batch-channel", "ssed:batch")
	programs := documentedBatches(t)
	require.Len(t, programs, 3)
	for language, run := range map[string]func(path string) *exec.Cmd{
		"python": func(path string) *exec.Cmd { return exec.Command(pythonProgram, path) },
		"js":     func(path string) *exec.Cmd { return exec.Command("node", path) },
		"go":     func(path string) *exec.Cmd { return exec.Command("go", "run", path) },
	} {
		t.Run(language, func(t *testing.T) {
			text := strings.ReplaceAll(programs[language], "127.0.0.1:6379", r.Addr())
			text = strings.Replace(text, `host="127.0.0.1", port=6379`, `host="127.0.0.1", port=`+strings.TrimPrefix(r.Addr(), "127.0.0.1:"), 1)
			require.NotContains(t, text, "6379")
			// Where the modules are found that it imports.
			dir, err := os.MkdirTemp(map[string]string{"python": t.TempDir(), "js": "clients", "go": "."}[language], "batch-")
			require.NoError(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			path, err := filepath.Abs(filepath.Join(dir, "batch."+map[string]string{"python": "py", "js": "mjs", "go": "go"}[language]))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))

			var c collector
			l := newLink(t, in.public)
			startCurl(t, streamURL(l.host(), "user123", "channel_id", "user456"), c.show)
			l.waitStreams(1)
			out, err := run(path).CombinedOutput()
			require.NoError(t, err, "%s", out)
			c.want(t, "Hello!", "Grüße")
		})
	}
}
