//go:build linux

package report

import (
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/loadtest/hist"
	"ssed/loadtest/swarm"
)

func example() *Report {
	h := &hist.Histogram{}
	for i := range 10_000 {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	run := func(target string, round int, v float64) Run {
		return Run{Target: target, Round: round, Values: map[string]float64{"rate": v}, Latency: map[string]*hist.Histogram{"all": h}}
	}
	failed := Run{Target: "<b>", Round: 3, Error: "no <such> server", Notes: []string{"a note"}}
	faulty := run("<b>", 2, 50)
	faulty.Counts = swarm.Counts{Lost: 3, Duplicates: 2, Late: 1, Closed: 5, Gaps: 4}
	return &Report{
		Started: time.Unix(0, 0).UTC(), Command: "loadtest x --target '<b>'", Host: Host{Kernel: "Linux", CPUs: 2, CPU: "chip"},
		Scenarios: []Scenario{{
			Name: "x", About: "An example.", Params: []Param{{"connections", "5"}}, Targets: []string{"floor", "<b>"}, References: []string{"floor"},
			Metrics: []Metric{
				{Key: "rate", Label: "rate", Unit: "1/s", Better: More, Plot: true},
				{Key: "absent", Label: "absent", Unit: "B", Plot: true},
			},
			Runs: []Run{run("floor", 1, 100), run("<b>", 1, 90), run("floor", 2, 200), faulty, run("floor", 3, 4000), failed},
		}},
	}
}

func TestSummaryIsTheMedian(t *testing.T) {
	s := &example().Scenarios[0]
	require.Equal(t, Spread{Median: 200, Min: 100, Max: 4000, N: 3}, s.Value("floor", "rate"))
	require.Equal(t, Spread{Median: 70, Min: 50, Max: 90, N: 2}, s.Value("<b>", "rate"))
	require.Zero(t, s.Value("floor", "absent"))
}

func TestRatiosAreTakenWithinARound(t *testing.T) {
	// 90/100 and 50/200; the third round has no pair.
	r := example().Scenarios[0].Ratio("<b>", "floor", "rate")
	require.Equal(t, 2, r.N)
	require.InDelta(t, (0.9+0.25)/2, r.Median, 1e-9)
}

func TestEveryTargetIsComparedWithEveryReference(t *testing.T) {
	s := &example().Scenarios[0]
	s.Targets, s.References = []string{"floor", "floor-redis", "ssed"}, []string{"floor", "floor-redis"}
	s.Runs = nil
	for i, target := range s.Targets {
		s.Runs = append(s.Runs, Run{Target: target, Round: 1, Values: map[string]float64{"rate": []float64{100, 80, 60}[i]}})
	}
	table := s.Table()
	require.Equal(t, []string{"floor-redis / floor", "ssed / floor", "ssed / floor-redis"}, table[0][5:])
	require.Equal(t, []string{"0.80", "0.60", "0.75"}, table[1][5:])
	for _, row := range table {
		require.Len(t, row, len(table[0]))
	}
}

func TestFaultsAndFailuresAreCounted(t *testing.T) {
	faults, failed := example().Wrong()
	require.EqualValues(t, 11, faults)
	require.Equal(t, 1, failed)
}

func TestTextTableSaysAll(t *testing.T) {
	var b strings.Builder
	require.NoError(t, example().WriteText(&b))
	for _, want := range []string{"X: An example.", "connections 5", "200 [100…4,000]", "70.0 [50.0…90.0]", "0.57", "3 / 2 / 1 / 5 / 4", "! <b>, round 3: no <such> server", "note: <b>: a note"} {
		require.Contains(t, b.String(), want)
	}
	require.NotContains(t, b.String(), "absent", "a metric that nobody has is left out")
}

func TestFiguresAreShort(t *testing.T) {
	f := func(v float64, want string) {
		t.Helper()
		require.Equal(t, want, format(v))
	}
	f(0, "0.00")
	f(0.1234, "0.123")
	f(1.234, "1.23")
	f(12.34, "12.3")
	f(123.4, "123")
	f(1234567.8, "1,234,568")
	f(-1234, "-1,234")
}

func TestPlotsAreWellFormedAndEscaped(t *testing.T) {
	s := &example().Scenarios[0]
	charts := s.charts()
	require.Len(t, charts, 2, "bars of the rate and the latency curve")
	for _, c := range charts {
		require.NoError(t, xml.Unmarshal([]byte(c.SVG), new(struct{})), c.SVG)
		require.NotContains(t, string(c.SVG), "NaN")
		require.NotContains(t, string(c.SVG), "Inf")
		require.Contains(t, string(c.SVG), "&lt;b&gt;")
	}
	var b strings.Builder
	require.NoError(t, example().WriteHTML(&b))
	require.NotContains(t, b.String(), "<b>")
	require.NotContains(t, b.String(), "<such>")
	require.Contains(t, b.String(), "no &lt;such&gt; server")
}

func TestEmptyAndEqualLatenciesCanBePlotted(t *testing.T) {
	h := &hist.Histogram{}
	s := Scenario{Targets: []string{"a"}, Runs: []Run{{Target: "a", Latency: map[string]*hist.Histogram{"p": h}}}}
	require.Empty(t, s.curve("p"))
	h.Record(time.Millisecond)
	require.NotContains(t, string(s.curve("p")), "NaN")
	h.Reset()
	h.Record(0)
	require.NotContains(t, string(s.curve("p")), "NaN")
}

func TestJSONIsReadBack(t *testing.T) {
	var b strings.Builder
	want := example()
	require.NoError(t, want.WriteJSON(&b))
	var got Report
	require.NoError(t, json.Unmarshal([]byte(b.String()), &got))
	require.Equal(t, *want, got)
}

func TestSectionsAreReachedByNamesWithSpaces(t *testing.T) {
	r := example()
	r.Scenarios[0].Name = "hostile: never reads"
	var b strings.Builder
	require.NoError(t, r.WriteHTML(&b))
	require.Contains(t, b.String(), `<a href="#hostile-never-reads">hostile: never reads</a>`)
	require.Contains(t, b.String(), `<h2 id="hostile-never-reads">hostile: never reads</h2>`)
}
