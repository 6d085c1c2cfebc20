//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report is everything of one run of the program.
type report struct {
	Seed       uint64    `json:"seed"`
	Started    time.Time `json:"started"`
	Clients    int       `json:"clients"`
	Channels   int       `json:"channels"`
	Publishers int       `json:"publishers"`
	Rate       int       `json:"rate"`
	Scenarios  []*result `json:"scenarios"`
	Bounds     []bound   `json:"bounds"`
}

// wrong is the number of findings, with the promises that were not kept.
func (r *report) wrong() (n int) {
	for _, s := range r.Scenarios {
		n += s.wrong()
	}
	for _, x := range r.Bounds {
		if !x.OK {
			n++
		}
	}
	return n
}

// write writes the summary and the files asked for.
func (o *options) write(r *report, stdout io.Writer) error {
	err := r.writeText(stdout)
	if o.JSON != "" {
		text, jsonErr := json.MarshalIndent(r, "", "  ")
		err = errors.Join(err, jsonErr, os.WriteFile(o.JSON, append(text, '\n'), 0o644))
	}
	if o.Markdown != "" {
		err = errors.Join(err, r.writeMarkdown(o.Markdown))
	}
	return err
}

// summary is one scenario in a few lines.
func (r *result) summary() string {
	var b strings.Builder
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "  ERROR %s\n", e)
	}
	for _, text := range r.findings() {
		fmt.Fprintf(&b, "  FINDING %s\n", text)
	}
	v := r.Verdict
	if v == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "  messages: %d published, %d acknowledged, %d to nobody, %d unknown, %d to a former primary, %d never numbered\n",
		v.Published, v.Acknowledged, v.NoReceivers, v.Unknown, v.Astray, v.Unnumbered)
	fmt.Fprintf(&b, "  identity: %d messages with different IDs, %d IDs on several messages, %d receipts taken back, %d given again under a gap marker\n",
		v.DifferentIDs, v.SharedIDs, v.Retracted, v.GivenAgain)
	fmt.Fprintf(&b, "  history:  %d entries, %d twice, %d out of place, %d missing, %d under a gap marker\n",
		v.HistoryHas, v.HistoryTwice, v.HistoryDisorder, v.HistoryMissing, v.HistoryExcused)
	if v.Kept > 0 {
		fmt.Fprintf(&b, "  inbox:    %d taken, %d missing in the history, %d out of order\n", v.Kept, v.KeptMissing, v.KeptDisorder)
	}
	fmt.Fprintf(&b, "  clients:  %d exact, %d told, %d with a silent loss, %d without a position, %d unfinished, of %d\n",
		v.Exact, v.Told, v.ClientsSilent, v.Unplaced, v.UnfinishedClient, v.Clients)
	fmt.Fprintf(&b, "  receipts: %d, %d missing and told, %d SILENTLY MISSING, %d duplicated, %d out of order, %d not their own\n",
		v.Received, v.ToldMissing, v.SilentlyMissing, v.Duplicated, v.OutOfOrder, v.Refused)
	fmt.Fprintf(&b, "  gap events: %d, of which %d without a loss %v\n", v.GapEvents, v.GapsWithoutLoss, v.GapReasons)
	for _, text := range v.examples {
		fmt.Fprintf(&b, "  FINDING %s\n", text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (r *report) writeText(w io.Writer) error {
	var b strings.Builder
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "%s (%s), seed %d, %.0f s\n%s\n", s.Name, s.Setup, s.Seed, s.Took.Seconds(), s.summary())
	}
	b.WriteString("\n" + r.faultTable())
	if len(r.Bounds) > 0 {
		b.WriteString("\n" + r.boundTable())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// faultLine is all times that one fault was injected alone.
type faultLine struct {
	fault                 string
	times, gaps           int
	lossless              bool
	hit, others, hist, up time.Duration
	hasHit, hasOthers     bool
	hasUp                 bool
}

func (r *report) faultLines() (lines []*faultLine) {
	for _, s := range r.Scenarios {
		for _, row := range s.Rows {
			if row.Settled == row.Ended || s.Name == wideName {
				continue // among others, or a bound of its own
			}
			i := slices.IndexFunc(lines, func(l *faultLine) bool { return l.fault == row.Fault && l.lossless == row.Lossless })
			if i < 0 {
				i, lines = len(lines), append(lines, &faultLine{fault: row.Fault, lossless: row.Lossless})
			}
			l := lines[i]
			l.times++
			l.gaps += row.Gaps
			l.hit, l.others, l.hist = max(l.hit, row.HitSilent), max(l.others, row.OthersSilent), max(l.hist, row.HistorySilent)
			l.up = max(l.up, row.AfterAnswer)
			l.hasHit, l.hasUp = l.hasHit || len(row.Hit) > 0, l.hasUp || row.AfterAnswer > 0
			l.hasOthers = l.hasOthers || row.OthersSilent > 0
		}
	}
	return lines
}

// faultTable is the time without delivery for each fault.
func (r *report) faultTable() string {
	var b strings.Builder
	b.WriteString("| fault | times | silent: hit | silent: best other | history stands | after Redis answers | gap events |\n|---|---|---|---|---|---|---|\n")
	for _, l := range r.faultLines() {
		if l.fault == "" {
			continue
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s |\n", l.fault, l.times,
			ifHas(l.hasHit, l.hit), ifHas(l.hasOthers, l.others), ms(l.hist), ifHas(l.hasUp, l.up), gapText(l))
	}
	return b.String()
}

// gapText is the number of gap events, bold where there may be none.
func gapText(l *faultLine) string {
	if l.lossless {
		return fmt.Sprintf("**%d**", l.gaps)
	}
	return fmt.Sprint(l.gaps)
}

// ifHas is empty for what the fault does not have.
func ifHas(has bool, d time.Duration) string {
	if !has {
		return ""
	}
	return ms(d)
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// scenarioTable is the verdict of each scenario.
func (r *report) scenarioTable() string {
	var b strings.Builder
	b.WriteString("| scenario | acknowledged | receipts | clients: exact | told | went wrong |\n|---|---|---|---|---|---|\n")
	for _, s := range r.Scenarios {
		v := s.Verdict
		if v == nil {
			fmt.Fprintf(&b, "| %s | failed: %s |\n", s.Name, strings.Join(s.Errors, "; "))
			continue
		}
		fmt.Fprintf(&b, "| %s: %s | %d | %d | %d | %d | %s |\n", s.Name, s.Setup, v.Acknowledged, v.Received, v.Exact, v.Told, v.wentWrong())
	}
	return b.String()
}

// wentWrong lists what may not happen, with how often it did.
func (v *verdict) wentWrong() string {
	var list []string
	for _, x := range []struct {
		times int
		what  string
	}{
		{v.ClientsSilent, "clients with a silent loss"},
		{v.SilentlyMissing, "silently missing"},
		{v.Duplicated, "twice"},
		{v.OutOfOrder, "out of order"},
		{v.DifferentIDs + v.SharedIDs, "with different IDs"},
		{v.HistoryTwice, "twice in the history"},
		{v.HistoryDisorder, "out of order in the history"},
		{v.HistoryMissing, "missing in the history"},
	} {
		if x.times > 0 {
			list = append(list, fmt.Sprintf("**%d %s**", x.times, x.what))
		}
	}
	if list == nil {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

func (r *report) boundTable() string {
	var b strings.Builder
	b.WriteString("| bound | measured | promised |\n|---|---|---|\n")
	for _, x := range r.Bounds {
		mark := ""
		if !x.OK {
			mark = " (**over**)"
		}
		fmt.Fprintf(&b, "| %s | %s%s | %s |\n", x.Name, x.Measured, mark, x.Promised)
	}
	return b.String()
}

const (
	markBegin = "<!-- chaos: begin -->"
	markEnd   = "<!-- chaos: end -->"
)

var errMarkers = errors.New("chaos: the document lacks the markers " + markBegin + " and " + markEnd)

// writeMarkdown replaces what stands between the markers of a document.
func (r *report) writeMarkdown(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), markBegin)
	_, after, found2 := strings.Cut(rest, markEnd)
	if !found || !found2 {
		return errMarkers
	}
	out := fmt.Sprintf("%s%s\nSeed %d, %s: %d clients, %d publishers, %d messages/s on %d channels.\n\n%s\n%s\n%s%s%s",
		before, markBegin, r.Seed, r.Started.Format(time.DateOnly), r.Clients, r.Publishers, r.Rate, r.Channels,
		r.scenarioTable(), r.faultTable(), r.boundTable(), markEnd, after)
	return os.WriteFile(path, []byte(out), 0o644)
}
