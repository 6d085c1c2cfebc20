package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// reportOf runs the tests of a module made of files and returns what is printed.
func reportOf(t *testing.T, files map[string]string) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	cmd := exec.Command("go", "test", "-vet=off", "-ldflags=-s -w", "-json", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	events, _ := cmd.Output() // a failing test makes it fail
	var out bytes.Buffer
	r := newReport(&out)
	require.NoError(t, r.read(bytes.NewReader(events)))
	ok := r.finish()
	return out.String(), ok
}

const passing = "package m\nimport \"testing\"\nfunc TestGood(t *testing.T) { t.Log(\"quiet\") }\n"

func TestPassingTestsAreNamedAndCounted(t *testing.T) {
	out, ok := reportOf(t, map[string]string{"a_test.go": passing, "b/b.go": "package b\n"})
	require.True(t, ok, out)
	require.Contains(t, out, "pass TestGood")
	require.NotContains(t, out, "quiet")
	require.Contains(t, out, "\n1 passed, 0 failed, 0 skipped\n")
}

func TestFailuresComeWithTheirOutput(t *testing.T) {
	out, ok := reportOf(t, map[string]string{
		"a_test.go": passing,
		"b/b_test.go": "package b\nimport \"testing\"\n" +
			"func TestBad(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"the reason\") }) }\n" +
			"func TestSkipped(t *testing.T) { t.Skip() }\n",
	})
	require.False(t, ok)
	require.Contains(t, out, "the reason")
	require.Contains(t, out, "fail TestBad")
	require.Contains(t, out, "\n1 passed, 2 failed, 1 skipped\n")
}

func TestBrokenPackagesCountAsFailed(t *testing.T) {
	for name, text := range map[string]string{
		"it does not build": "package b\nfunc f() { undefined() }\n",
		"TestMain fails":    "package b\nimport (\"testing\";\"os\")\nfunc TestMain(*testing.M) { println(\"undefined\"); os.Exit(3) }\n",
		"a panic ends it":   "package b\nimport \"testing\"\nfunc TestPanic(*testing.T) { panic(\"undefined\") }\n",
	} {
		out, ok := reportOf(t, map[string]string{"a_test.go": passing, "b/b_test.go": text})
		require.False(t, ok, name)
		require.Contains(t, out, "undefined", name)
		require.Contains(t, out, "1 passed,", name)
		require.NotContains(t, out, " 0 failed", name)
	}
}

func TestNoTestAtAllIsAFailure(t *testing.T) {
	_, ok := reportOf(t, map[string]string{"a.go": "package m\n"})
	require.False(t, ok)
}
