//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"ssed/internal/ssedtest"
)

// program is the path of the ssed under test.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ssed-e2e-")
	if err == nil {
		program = filepath.Join(dir, "ssed")
		err = ssedtest.Build(program, "-ldflags", "-X main.version=v0.0.0-e2e")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		tested.print()
		for _, m := range []*matrix{clientMatrix, proxyMatrix} {
			if err := m.publish(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		for file, lines := range triedBy {
			if err := publishVersions(file, lines); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		os.Exit(code)
	}))
}

// ledger is what the tests tell about themselves: which program, in which version,
// was tried.
type ledger struct {
	mu      sync.Mutex
	entries map[string]string // guarded by mu: version by name
}

var tested = ledger{entries: map[string]string{}}

func (l *ledger) add(name, version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[name] = strings.TrimSpace(version)
}

func (l *ledger) print() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name := range l.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Println("tried with:")
	for _, name := range names {
		fmt.Printf("    %-38s %s\n", name, l.entries[name])
	}
}

// versions are the answers of versionOf, by command.
var versions sync.Map

// versionOf returns the first line that a command prints.
func versionOf(t testing.TB, command ...string) string {
	t.Helper()
	name := strings.Join(command, " ")
	if known, found := versions.Load(name); found {
		return known.(string)
	}
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	versions.Store(name, line)
	return line
}
