//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/redistest"
)

func TestMain(m *testing.M) {
	// Started by os/signal on first use; it never ends.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop"))
}

// TestShortRunFindsNothing is the short form of "make chaos", less than a minute: four
// real processes on a real Redis under the faults that are quick to do.
func TestShortRunFindsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 40 s")
	}
	file := filepath.Join(t.TempDir(), "report.json")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{
		"--scenario", "short", "--no-bounds", "--seed", "1", "--rate", "250", "--clients", "60", "--json", file,
	}, &stdout, &stderr)
	text, err := os.ReadFile(file)
	require.NoError(t, err, "stderr: %s", &stderr)
	var rep report
	require.NoError(t, json.Unmarshal(text, &rep))
	require.Zero(t, rep.Scenarios[0].wrong(), "stdout: %s\nstderr: %s", &stdout, &stderr)
	// How soon things go on is told, and a busy machine keeps none of these bounds.
	require.NotEmpty(t, rep.Bounds)
	require.Equal(t, rep.wrong() > 0, code != 0)
	v := rep.Scenarios[0].Verdict
	require.Greater(t, v.Acknowledged, 1000, "too little happened")
	require.Greater(t, v.Received, 1000, "too little happened")
	require.Equal(t, v.Clients, v.Exact+v.Told)
	require.Len(t, rep.Scenarios[0].Rows, len(chosen([]string{"short"})[0].faults))
}

func TestBadFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--clients", "0"}, {"--channels", "3"}, {"--scenario", "none"}, {"--fault", "none"}, {"--rate", "x"}, {"--nonsense"}} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, exitUsage, run(t.Context(), args, &stdout, &stderr), args)
		require.NotEmpty(t, stderr.String())
	}
}

func TestTablesGoBetweenTheMarkersOfADocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	rep := &report{Seed: 7, Scenarios: []*result{{Name: "links", Verdict: &verdict{Acknowledged: 12}}}}
	for range 2 { // the second time replaces the first
		if _, err := os.Stat(path); err != nil {
			require.NoError(t, os.WriteFile(path, []byte("before\n"+markBegin+"\nyesterday\n"+markEnd+"\nafter\n"), 0o644))
		}
		require.NoError(t, rep.writeMarkdown(path))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Regexp(t, `(?s)^before\n.*Seed 7.*\| links: .* \| 12 \|.*after\n$`, string(text))
		require.NotContains(t, string(text), "yesterday")
		require.Equal(t, 1, bytes.Count(text, []byte(markBegin)))
	}
	require.NoError(t, os.WriteFile(path, []byte("no markers"), 0o644))
	require.ErrorIs(t, rep.writeMarkdown(path), errMarkers)
}

func TestFaultsHaveNamesOfTheirOwn(t *testing.T) {
	about := make(map[string]string)
	for _, s := range scenarios() {
		require.NotEmpty(t, s.faults, s.name)
		for _, f := range slices.Concat(s.faults, s.beside) {
			require.NotEmpty(t, f.about, f.name)
			if text, ok := about[f.name]; ok {
				require.Equal(t, text, f.about)
			}
			about[f.name] = f.about
		}
	}
}

func TestClockOfRedisIsAsFarAheadAsIsSaid(t *testing.T) {
	dir := t.TempDir()
	b, err := bendTime(dir)
	require.NoError(t, err)
	defer b.close()
	r, err := redistest.RunProgram(b.server, dir, 0)
	require.NoError(t, err)
	defer r.Kill()
	ahead := func() time.Duration {
		t.Helper()
		reply, err := r.Do("TIME")
		require.NoError(t, err)
		seconds, err := strconv.ParseInt(reply.([]any)[0].(string), 10, 64)
		require.NoError(t, err)
		return time.Until(time.Unix(seconds, 0)).Round(time.Hour)
	}
	require.Zero(t, ahead())
	_, err = r.Do("SET", "k", "v", "EX", "600")
	require.NoError(t, err)
	require.NoError(t, b.set(24*time.Hour))
	require.Eventually(t, func() bool { return ahead() == 24*time.Hour }, startTimeout, time.Millisecond)
	reply, err := r.Do("GET", "k")
	require.NoError(t, err)
	require.Nil(t, reply, "it has expired")
	require.NoError(t, b.set(0))
	require.Eventually(t, func() bool { return ahead() == 0 }, startTimeout, time.Millisecond)
}
