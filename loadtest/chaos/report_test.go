//go:build linux

package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goodVerdict is that of a scenario in which everything went well.
func goodVerdict() *verdict { return &verdict{Clients: 10, Exact: 10, Received: 1000} }

func TestPromisesThatWereNotKeptFailARun(t *testing.T) {
	rep := &report{Scenarios: []*result{{Verdict: goodVerdict()}}, Bounds: []bound{{Name: "ticks", OK: true}}}
	require.Zero(t, rep.wrong())
	rep.Bounds = append(rep.Bounds, bound{Name: "take-over", Measured: "2 s", Promised: "1.5 s"})
	require.Equal(t, 1, rep.wrong())
}

// TestTableNamesWhatWentWrong, each kind by its name.
func TestTableNamesWhatWentWrong(t *testing.T) {
	require.Equal(t, "nothing", goodVerdict().wentWrong())
	v := goodVerdict()
	v.SilentlyMissing, v.ClientsSilent, v.SharedIDs, v.HistoryMissing = 3, 1, 2, 4
	require.Equal(t, "**1 clients with a silent loss**, **3 silently missing**, **2 with different IDs**, **4 missing in the history**", v.wentWrong())
	v = &verdict{Duplicated: 5, OutOfOrder: 6, DifferentIDs: 7, HistoryTwice: 8, HistoryDisorder: 9}
	require.Equal(t, "**5 twice**, **6 out of order**, **7 with different IDs**, **8 twice in the history**, **9 out of order in the history**", v.wentWrong())
}

// TestScenarioThatShowsNothingFails: silence is no proof.
func TestScenarioThatShowsNothingFails(t *testing.T) {
	f := func(want int, change func(v *verdict)) {
		t.Helper()
		v := goodVerdict()
		change(v)
		require.Equal(t, want, (&result{Verdict: v}).wrong())
	}
	f(0, func(*verdict) {})
	f(0, func(v *verdict) { v.Exact, v.Unplaced = 6, 4 })
	f(1, func(v *verdict) { v.Exact, v.Unplaced = 5, 5 })
	f(1, func(v *verdict) { v.Exact, v.Unplaced, v.Received = 0, 10, 0 })
	f(1, func(v *verdict) { v.Received = 0 }) // gap events alone
}

func TestFaultsThatCouldNotBeDoneFailARun(t *testing.T) {
	good, bad := row{Fault: "x"}, row{Fault: "x", Error: "chaos: no feed to kill"}
	f := func(want int, mixed bool, rows ...row) {
		t.Helper()
		r := &result{Verdict: goodVerdict(), Mixed: mixed, Rows: rows}
		require.Equal(t, want, r.wrong())
		require.Equal(t, want > 0, len(r.findings()) > 0)
	}
	// Alone, each fault finds what it is to hit.
	f(0, false, good, good)
	f(1, false, good, bad)
	f(2, false, bad, bad, good)
	// Among others it may be gone already.
	f(0, true, good, bad)
	f(0, true, bad, good, good)
	f(1, true, bad, bad, good)
	f(1, true) // no fault at all
}

func TestMixedFaultsKeepTheirErrors(t *testing.T) {
	r := &runner{cluster: &cluster{parts: setup{}.parts()}, result: &result{}, clock: clock{time.Now()}, say: func(string, ...any) {}}
	broken := fault{name: "x", inject: func(_ context.Context, _ *damage) error { return errors.New("nothing to break") }}
	require.NoError(t, r.injectMixed(t.Context(), broken, nil))
	require.Equal(t, "nothing to break", r.result.Rows[0].Error)
}
