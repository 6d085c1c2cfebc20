//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/loadtest/report"
)

// TestIngestMeasuresEachFleet, and puts its tables into a document.
func TestIngestMeasuresEachFleet(t *testing.T) {
	document := filepath.Join(t.TempDir(), "doc.md")
	text := "before\n"
	for _, marker := range []string{figuresMarker, reachMarker} {
		text += "<!-- " + marker + " -->\nyesterday\n<!-- /" + marker + " -->\nbetween\n"
	}
	require.NoError(t, os.WriteFile(document, []byte(text), 0o600))
	out, printed := execute(t, 0, "ingest", "--ssed-bin", buildSsed(t), "--primaries", "1", "--instances", "1,2",
		"--messages", "10000", "--rounds", "1", "--markdown", document)
	s := out.Scenarios[0]
	require.Len(t, s.Runs, 4)
	for _, r := range s.Runs {
		require.Empty(t, r.Error)
		for _, m := range s.Metrics {
			require.Contains(t, r.Values, m.Key, r.Target)
			if !strings.HasSuffix(m.Key, "_idle") { // in a second that may be less than the clock tells
				require.Positive(t, r.Values[m.Key], "%s of %s", m.Key, r.Target)
			}
		}
	}
	got, err := os.ReadFile(document)
	require.NoError(t, err)
	require.NotContains(t, string(got), "yesterday")
	require.Equal(t, 2, strings.Count(string(got), "between\n"))
	require.Contains(t, printed, "| single | 2 | on | ")
	require.Contains(t, string(got), "| single | 2 | on | ")
	require.Contains(t, string(got), "| 100 | ")

	require.NoError(t, os.WriteFile(document, []byte("no markers"), 0o600))
	require.ErrorIs(t, ingestTables{}.put(document), errIngestMarkers)
	for _, args := range [][]string{{}, {"--ssed-bin=x", "--messages=0"}, {"--ssed-bin=x", "--primaries=0"}, {"--ssed-bin=x", "--history=maybe"}} {
		execute(t, exitUsage, append([]string{"ingest"}, args...)...)
	}
}

// TestIngestTablesFollowFromTheFigures: a cost that grows by 0.1 µs with each instance, and
// is shared out equally.
func TestIngestTablesFollowFromTheFigures(t *testing.T) {
	g := &ingest{Primaries: []int{1, 2, 3}, Instances: []int{1, 4, 16}, History: []string{"off", "on"}}
	s := g.describe()
	for _, c := range g.cases() {
		redis := (0.4 + 0.1*float64(c.instances)) / float64(c.redis.primaries)
		if c.history {
			redis += 2.4 / float64(c.redis.primaries)
		}
		s.Runs = append(s.Runs, report.Run{Target: c.name(), Values: map[string]float64{
			redisKey(alone): redis, redisKey(batched): redis / 10, ssedKey(alone): 0.8, ssedKey(batched): 0.35, "redis_idle": 0.2, "ssed_idle": 0.1,
		}})
	}
	tables := g.tables(&s)
	require.Contains(t, tables.figures, "| cluster of 3 | 16 | off | 0.67 | 0.067 | 0.80 | 0.35 | 0.2 | 0.1 |\n")
	require.Contains(t, tables.figures, "| 16 | on | 1.00 | 1.00 | 1.00 | 1.00 |\n")
	require.Contains(t, tables.reach, "| 1 | 2 million/s | 20 million/s | 3.4 million/s | 1 | 1 | 1 | 1 / the measured time |\n")
	// 10.4 µs; 1.04 µs; 1.28 µs.
	require.Contains(t, tables.reach, "| 100 | 96,000/s | 960,000/s | 780,000/s | 15 | 2 | 2 | calculated |\n")
	require.Contains(t, tables.reach, "with 1, 4 and 16 instances (cluster of 1).\n")
	require.Contains(t, tables.reach, "An instance takes 0.80 cores for a million messages/s alone.\nAn instance takes 0.35 cores")

	// A run that failed leaves its cells empty.
	s.Runs = s.Runs[:1]
	s.Runs[0].Values = map[string]float64{}
	tables = g.tables(&s)
	require.Contains(t, tables.figures, "| single | 1 | off | – | – | – | – | – | – |\n")
	require.NotContains(t, tables.figures, "multiple")
	require.Contains(t, tables.reach, "| 100 | – | – | – | – | – | – | calculated |\n")
}

// TestRoundsOfIngestAreWholeChunks: as much for each partition, and whole batches.
func TestRoundsOfIngestAreWholeChunks(t *testing.T) {
	for _, messages := range []int{1, 1000, 120_000} {
		g := &ingest{Messages: messages, Primaries: []int{1, 2, 3, 7}, Instances: []int{1, 4, 16, 100}, History: []string{"off", "on"}}
		for _, c := range g.cases() {
			whole := func(n, chunk int) {
				t.Helper()
				require.Positive(t, chunk)
				require.Positive(t, n)
				require.Zero(t, n%chunk, "%v", c)
				require.Zero(t, chunk%(c.redis.primaries*ingestPerBatch), "%v", c)
			}
			whole(g.warmUp(c))
			whole(g.amount(c, alone))
			whole(g.amount(c, batched))
		}
	}
	require.Equal(t, "1, 4 and 16", list([]int{16, 1, 4}))
	require.Equal(t, "7", list([]int{7}))
	require.Equal(t, []string{"990,000", "62,000", "1.8 million", "420"}, []string{rounded(990_099), rounded(62_111), rounded(1.84e6), rounded(421)}, fmt.Sprint(rounded(62_111)))
}
