//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"ssed/loadtest/report"
)

const (
	// far is how many instances the calculation goes to.
	far = 100
	// fullShare is what a Redis process is to be busy at most: above that, latencies grow.
	fullShare = 0.7
)

// ingestResult reads medians of a scenario by case.
type ingestResult struct{ *report.Scenario }

func (r ingestResult) of(redis servers, instances int, history bool, key string) (us float64, ok bool) {
	v := r.Value(ingestCase{redis, instances, history}.name(), key)
	return v.Median, v.N > 0
}

// tables makes the documents' tables of what was measured.
func (g *ingest) tables(s *report.Scenario) ingestTables {
	r := ingestResult{s}
	return ingestTables{figures: g.figures(r) + g.shares(r), reach: g.reach(r)}
}

// figures has a row for each fleet.
func (g *ingest) figures(r ingestResult) string {
	var b strings.Builder
	b.WriteString("| Redis | instances | history | busiest Redis, µs: alone | in batches | each ssed, µs: alone | in batches | idle, %: busiest Redis | each ssed |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range g.cases() {
		cell := func(key, format string) string {
			if v, ok := r.of(c.redis, c.instances, c.history, key); ok {
				return fmt.Sprintf(format, v)
			}
			return "–"
		}
		fmt.Fprintf(&b, "| %v | %d | %s | %s | %s | %s | %s | %s | %s |\n", c.redis, c.instances, onOff(c.history),
			cell(redisKey(alone), "%.2f"), cell(redisKey(batched), "%.3f"), cell(ssedKey(alone), "%.2f"), cell(ssedKey(batched), "%.2f"),
			cell("redis_idle", "%.1f"), cell("ssed_idle", "%.1f"))
	}
	return b.String()
}

// shares compares the busiest of several primaries with an equal share of what one takes.
func (g *ingest) shares(r ingestResult) string {
	var b strings.Builder
	for _, history := range g.History {
		for _, instances := range g.Instances {
			row := ""
			for _, s := range g.servers() {
				for _, kind := range []string{alone, batched} {
					one, ok := r.of(g.one(), instances, history == "on", redisKey(kind))
					many, ok2 := r.of(s, instances, history == "on", redisKey(kind))
					if s.primaries > 1 && ok && ok2 && one > 0 {
						row += fmt.Sprintf(" %.2f |", many*float64(s.primaries)/one)
					}
				}
			}
			if row != "" {
				fmt.Fprintf(&b, "| %d | %s |%s\n", instances, history, row)
			}
		}
	}
	if b.Len() == 0 {
		return ""
	}
	head, line := "\nThe busiest primary, as a multiple of an equal share of what the only one of a cluster takes:\n\n| instances | history |", "|---|---|"
	for _, primaries := range g.Primaries {
		if primaries > 1 {
			head += fmt.Sprintf(" %d: alone | in batches |", primaries)
			line += "---|---|"
		}
	}
	return head + "\n" + line + "\n" + b.String()
}

// reach is how far one primary goes, and how many take a million messages a second.
func (g *ingest) reach(r ingestResult) string {
	var b strings.Builder
	b.WriteString("| instances | one primary, a core of it: alone | in batches | in batches, with history | primaries for a million messages/s: alone | in batches | in batches, with history | |\n|---|---|---|---|---|---|---|---|\n")
	kinds := []struct {
		kind    string
		history bool
	}{{alone, false}, {batched, false}, {batched, true}}
	row := func(instances int, how string, cost func(kind string, history bool) (float64, bool)) {
		var rates, needs string
		for _, k := range kinds {
			us, ok := cost(k.kind, k.history)
			if !ok || us <= 0 {
				rates, needs = rates+" – |", needs+" – |"
				continue
			}
			rates += fmt.Sprintf(" %s/s |", rounded(1e6/us))
			// A microsecond for each of a million messages a second is a core.
			needs += fmt.Sprintf(" %d |", int(math.Ceil(us/fullShare)))
		}
		fmt.Fprintf(&b, "| %d |%s%s %s |\n", instances, rates, needs, how)
	}
	for _, instances := range g.Instances {
		row(instances, "1 / the measured time", func(kind string, history bool) (float64, bool) {
			return r.of(g.one(), instances, history, redisKey(kind))
		})
	}
	row(far, "calculated", func(kind string, history bool) (float64, bool) { return g.extrapolated(r, kind, history) })
	fmt.Fprintf(&b, "\nA primary counts as full at %.0f %% of a core. Calculated: the line through what one primary took with %s instances (%v).\n", 100*fullShare, list(g.Instances), g.one())
	for _, kind := range []string{alone, batched} {
		if us, ok := g.most(r, ssedKey(kind)); ok {
			fmt.Fprintf(&b, "An instance takes %.2f cores for a million messages/s %s.\n", us, map[string]string{alone: "alone", batched: "in batches"}[kind])
		}
	}
	return b.String()
}

// most is the highest cost of a message among the fleets without a history.
func (g *ingest) most(r ingestResult, key string) (us float64, ok bool) {
	for _, c := range g.cases() {
		if v, found := r.of(c.redis, c.instances, c.history, key); found && !c.history {
			us, ok = max(us, v), true
		}
	}
	return us, ok
}

// extrapolated is the cost at far instances, on the line of least squares through what was
// measured with one primary.
func (g *ingest) extrapolated(r ingestResult, kind string, history bool) (us float64, ok bool) {
	var n, sx, sy, sxx, sxy float64
	for _, instances := range g.Instances {
		if v, found := r.of(g.one(), instances, history, redisKey(kind)); found {
			x := float64(instances)
			n, sx, sy, sxx, sxy = n+1, sx+x, sy+v, sxx+x*x, sxy+x*v
		}
	}
	spread := n*sxx - sx*sx
	if n < 2 || spread == 0 {
		return 0, false
	}
	slope := (n*sxy - sx*sy) / spread
	return (sy-slope*sx)/n + slope*far, true
}

// rounded has two digits.
func rounded(perSecond float64) string {
	scale := math.Pow(10, math.Floor(math.Log10(perSecond))-1)
	n := math.Round(perSecond/scale) * scale
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.3g million", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f,%03d", math.Floor(n/1e3), int(n)%1000)
	}
	return fmt.Sprintf("%.0f", n)
}

// list writes "1, 4 and 16".
func list(numbers []int) string {
	texts := make([]string, len(numbers))
	for i, n := range slices.Sorted(slices.Values(numbers)) {
		texts[i] = fmt.Sprint(n)
	}
	if len(texts) < 2 {
		return strings.Join(texts, "")
	}
	return strings.Join(texts[:len(texts)-1], ", ") + " and " + texts[len(texts)-1]
}
