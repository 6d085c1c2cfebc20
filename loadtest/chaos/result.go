//go:build linux

package main

import (
	"fmt"
	"time"
)

// row is one fault and what was seen of it.
type row struct {
	Scenario string        `json:"scenario"`
	Fault    string        `json:"fault"`
	Lossless bool          `json:"lossless"` // nothing may be lost
	Began    time.Duration `json:"began"`
	Ended    time.Duration `json:"ended"`   // of the damage
	Settled  time.Duration `json:"settled"` // every instance ready, history written
	Hit      []int         `json:"hit"`     // instances
	// Longest times without delivery until Settled: on the instances that were
	// hit, on the best of the others, and of the history.
	HitSilent     time.Duration `json:"hitSilent"`
	OthersSilent  time.Duration `json:"othersSilent"`
	HistorySilent time.Duration `json:"historySilent"`
	// AfterAnswer is from the first answer of a Redis that was away to delivery on
	// the last instance.
	AfterAnswer time.Duration `json:"afterAnswer"`
	Gaps        int           `json:"gaps"` // gap events until the next fault
	Note        string        `json:"note,omitempty"`
	Error       string        `json:"error,omitempty"`
}

// result is one scenario.
type result struct {
	Name     string        `json:"name"`
	Seed     uint64        `json:"seed"`
	Took     time.Duration `json:"took"`
	Setup    string        `json:"setup"`
	Lossless bool          `json:"lossless"`
	Mixed    bool          `json:"mixed"` // faults over each other
	Rows     []row         `json:"rows"`
	Verdict  *verdict      `json:"verdict"`
	Errors   []string      `json:"errors,omitempty"`
	Dir      string        `json:"-"`
}

// wrong is the number of findings that fail the run.
func (r *result) wrong() int {
	n := len(r.Errors) + len(r.findings())
	if r.Verdict != nil {
		n += r.Verdict.wrong() + r.Verdict.UnfinishedClient
	}
	return n
}

// findings are what fails the run beside the verdict.
func (r *result) findings() (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	failed := 0
	for _, row := range r.Rows {
		if row.Lossless && row.Gaps > 0 {
			add("%d gap events after %s, which loses nothing", row.Gaps, row.Fault)
		}
		if row.Error == "" {
			continue
		}
		if failed++; !r.Mixed {
			add("%s: %s", row.Fault, row.Error)
		}
	}
	// Among others a fault may find nothing left to break, but not most of the time.
	if r.Mixed && (len(r.Rows) == 0 || 2*failed > len(r.Rows)) {
		add("%d of %d faults could not be done", failed, len(r.Rows))
	}
	if n := r.gapsUnderLosslessMix(); n > 0 {
		add("%d gap events under faults that lose nothing", n)
	}
	if v := r.Verdict; v != nil && (v.Received == 0 || 2*v.Unplaced >= v.Clients) {
		add("%d receipts, %d of %d clients without a position: that shows nothing", v.Received, v.Unplaced, v.Clients)
	}
	return list
}

// gapsUnderLosslessMix are gap events where no fault loses anything, also when they
// come together.
func (r *result) gapsUnderLosslessMix() int {
	if r.Verdict == nil || !r.Lossless {
		return 0
	}
	return r.Verdict.GapEvents
}
