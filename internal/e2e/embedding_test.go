//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProgramThatIsTheGateway makes a module as docs/EMBEDDING.md says, with the program that
// stands there, and reads what it publishes.
func TestProgramThatIsTheGateway(t *testing.T) {
	tree, err := filepath.Abs("../..")
	require.NoError(t, err)
	shown := excerpt(t, filepath.Join(tree, "docs/EMBEDDING.md"), "clock")
	program := strings.TrimSuffix(strings.TrimPrefix(shown, "```go\n"), "```\n")
	module, err := exec.Command("go", "list", "-m").Output()
	require.NoError(t, err)
	name := strings.TrimSuffix(strings.TrimSpace(string(module)), "/internal/e2e")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644))
	for _, args := range []string{
		"mod init example.org/clock", "mod edit -require " + name + "@v0.0.0 -replace " + name + "=" + tree, "mod tidy", "build -o clock .",
	} {
		cmd := exec.Command("go", strings.Fields(args)...)
		cmd.Dir = dir
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s: %s", args, said)
	}
	port := strconv.Itoa(freePort(t))
	p := spawn(t, nil, "env", "PORT="+port, filepath.Join(dir, "clock"))
	eventually(t, "the program to listen", func() bool {
		resp, err := http.Get("http://127.0.0.1:" + port + "/health")
		return err == nil && resp.Body.Close() == nil
	})
	e := openStream(t, streamURL("127.0.0.1:"+port, "clock")).take(t)
	require.Equal(t, "time", e.Event)
	require.Regexp(t, `^\d\d:\d\d:\d\d$`, e.Data)
	p.Signal(syscall.SIGTERM)
	require.Zero(t, p.wait(t), p.logText())
}
