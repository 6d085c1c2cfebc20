//go:build linux

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ssed/loadtest/report"
)

// The bar of every row: what a neighbour may add to the canary's idle p99, and its
// slowest message.
const (
	barAdded = 10 * time.Millisecond
	barMax   = 50 * time.Millisecond
)

func (r *hostileRow) describe(*options) report.Scenario {
	unit := "connections"
	input := strconv.Itoa(r.count)
	switch {
	case r.scaled:
		unit, input = "messages a second", strconv.FormatFloat(r.perSec, 'g', -1, 64)
	case r.rate > 0:
		unit, input = "a second", strconv.FormatFloat(r.rate, 'g', -1, 64)
	}
	s := report.Scenario{
		Name:  hostilePrefix + r.name,
		About: r.about,
		Params: []report.Param{
			param("canary channels", canaries), param("messages a second", canaryRate),
			param("neighbour at 1×, "+unit, input), param("for", r.duration),
		},
		Metrics: []report.Metric{
			{Key: "p50_alone", Label: "canary alone, p50", Unit: "ms", Better: report.Less},
			{Key: "p99_alone", Label: "canary alone, p99", Unit: "ms", Better: report.Less},
			{Key: "max_alone", Label: "canary alone, max", Unit: "ms", Better: report.Less},
			{Key: "late_alone", Label: "sender late alone, p99", Unit: "ms"},
			{Key: "cpu_alone", Label: "server CPU alone", Unit: "% of a core", Better: report.Less},
		},
	}
	if r.burst > 0 {
		s.Params = append(s.Params, param("messages before", r.burst))
	}
	for _, n := range r.sizes {
		key, at := func(what string) string { return what + "_" + strconv.Itoa(n) }, fmt.Sprintf("%d×: ", n)
		s.Metrics = append(s.Metrics,
			report.Metric{Key: key("p50"), Label: at + "canary p50", Unit: "ms", Better: report.Less},
			report.Metric{Key: key("p99"), Label: at + "canary p99", Unit: "ms", Better: report.Less},
			report.Metric{Key: key("max"), Label: at + "canary max", Unit: "ms", Better: report.Less},
			report.Metric{Key: key("late"), Label: at + "sender late, p99", Unit: "ms"},
			report.Metric{Key: key("cpu"), Label: at + "server CPU", Unit: "% of a core", Better: report.Less},
			report.Metric{Key: key("rss"), Label: at + "server memory beyond that alone", Unit: "MB", Better: report.Less},
			report.Metric{Key: key("input"), Label: at + "the neighbour did", Unit: r.inputUnit()},
		)
	}
	s.Metrics = append(s.Metrics, hostileVerdict("")...)
	return s
}

func (r *hostileRow) inputUnit() string {
	switch {
	case r.scaled:
		return "messages/s"
	case r.rate > 0:
		return "1/s"
	}
	return "connections"
}

// hostileVerdict are the figures that the bar is about; those of a neighbour have its
// name in the summary.
func hostileVerdict(name string) []report.Metric {
	label := func(text string) string {
		if name == "" {
			return text
		}
		return name + ": " + text
	}
	return []report.Metric{
		{Key: name + "added_p99", Label: label("worst p99 beyond that alone"), Unit: "ms", Better: report.Less},
		{Key: name + "worst_max", Label: label("worst max"), Unit: "ms", Better: report.Less},
		{Key: name + "cpu_growth", Label: label("CPU per input, largest size to smallest"), Unit: "×", Better: report.Less},
		{Key: name + "rss_growth", Label: label("memory per input, largest size to smallest"), Unit: "×", Better: report.Less},
	}
}

// record notes the figures of the canary and of the server's CPU.
func (x *hostileRun) record(phase string, p hostilePoint) {
	at := phase
	if phase != "alone" {
		at += "×"
	}
	x.stage.set("cpu_"+phase, p.cpu*100)
	x.stage.set("late_"+phase, ms(p.late))
	if p.lost > 0 {
		x.stage.note("%s: %d messages to the canary were lost", at, p.lost)
	}
	if !p.arrived {
		x.stage.note("%s: nothing reached the canary", at)
		return
	}
	for what, d := range map[string]time.Duration{"p50": p.p50, "p99": p.p99, "max": p.max} {
		x.stage.set(what+"_"+phase, ms(d))
	}
}

// judge records the figures that the bar is about.
func (x *hostileRun) judge(alone hostilePoint) {
	var added, most time.Duration
	late := alone.late
	silent := !alone.arrived
	for _, p := range x.points {
		silent = silent || !p.arrived
		late = max(late, p.late)
		added, most = max(added, p.p99-alone.p99), max(most, p.max)
	}
	s := x.stage
	if !silent {
		s.set("added_p99", ms(added))
		s.set("worst_max", ms(most))
	}
	if growth, ok := costGrowth(x.points, leastCPU, func(p hostilePoint) float64 { return p.cpu - alone.cpu }); ok {
		s.set("cpu_growth", growth)
	}
	if growth, ok := costGrowth(x.points, leastRSS, func(p hostilePoint) float64 { return float64(p.rss) }); ok {
		s.set("rss_growth", growth)
	}
	if late > lateNote {
		s.note("messages were sent late by more than %v (p99): the machine is too busy for these latencies to be the server's", lateNote)
	}
	if added > barAdded || most > barMax {
		s.note("above the bar: %.1f ms of p99 added (%v may be), max %.1f ms (%v)", ms(added), barAdded, ms(most), barMax)
	}
}

// Costs below which a size is not compared: what the canary alone varies by.
const (
	leastCPU = 0.02    // of a core
	leastRSS = 4 << 20 // bytes
)

// costGrowth is the cost for each unit of input at the largest size, divided by that at
// the smallest whose cost can be told from nothing. Above 1 the cost grows faster than
// the input.
func costGrowth(points []hostilePoint, least float64, cost func(hostilePoint) float64) (growth float64, ok bool) {
	last := points[len(points)-1]
	for _, p := range points[:len(points)-1] {
		if c := cost(p); c >= least && p.input > 0 && last.input > 0 {
			return cost(last) / last.input / (c / p.input), true
		}
	}
	return 0, false
}

// summariseHostile puts the figures that the bar is about of all neighbours into one
// scenario, before theirs.
func summariseHostile(out *report.Report) {
	first := slices.IndexFunc(out.Scenarios, func(s report.Scenario) bool { return strings.HasPrefix(s.Name, hostilePrefix) })
	if first < 0 {
		return
	}
	rows := out.Scenarios[first:]
	sum := report.Scenario{
		Name:    "hostile",
		About:   "The canary beside each neighbour, the worst of its sizes. The figures of each follow.",
		Params:  []report.Param{param("bar, p99 added", barAdded), param("bar, max", barMax), param("bar, cost per input", "1×")},
		Targets: rows[0].Targets, References: rows[0].References,
	}
	runs := map[string]*report.Run{}
	for _, row := range rows {
		name := strings.TrimPrefix(row.Name, hostilePrefix)
		sum.Metrics = append(sum.Metrics, hostileVerdict(name)...)
		for _, r := range row.Runs {
			key := fmt.Sprint(r.Target, r.Round)
			if runs[key] == nil {
				runs[key] = &report.Run{Target: r.Target, Round: r.Round, Values: map[string]float64{}}
			}
			for _, m := range hostileVerdict("") {
				if v, ok := r.Values[m.Key]; ok {
					runs[key].Values[name+m.Key] = v
				}
			}
		}
	}
	for _, round := range rows[0].Runs {
		sum.Runs = append(sum.Runs, *runs[fmt.Sprint(round.Target, round.Round)])
	}
	out.Scenarios = slices.Insert(out.Scenarios, first, sum)
}
