package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// gapPage is a page over (10-0, 20-0] on which two of three channels lost
// something and one has a message.
func gapPage(shared bool) *page {
	p := newPage([]string{"a", "b", "c"}, sseproto.ID{Ms: 10})
	p.shared = shared
	p.Lost(0, sseproto.ReasonOutage, sseproto.ID{})
	p.Event(1, sseproto.ID{Ms: 15, Seq: 3}, sseproto.Message{Data: "x"})
	p.Lost(2, sseproto.ReasonTrimmed, sseproto.ID{})
	p.finish(sseproto.ID{Ms: 20})
	return p
}

// TestOnlyTheLastGapEventMovesAClientOn: cut off between two gap events, a client
// must not resume behind the one that it has not seen.
func TestOnlyTheLastGapEventMovesAClientOn(t *testing.T) {
	ids := func(p *page) (list []sseproto.ID) {
		for _, f := range p.frames {
			list = append(list, f.id)
		}
		return list
	}
	after, before, message := sseproto.ID{Ms: 10}, sseproto.ID{Ms: 15, Seq: 2}, sseproto.ID{Ms: 15, Seq: 3}
	require.Equal(t, []sseproto.ID{after, before, message}, ids(gapPage(false)))
	// On a shared page the last one of a client can be any.
	require.Equal(t, []sseproto.ID{after, after, message}, ids(gapPage(true)))
}

// TestCutGapEventIsHeldWithThoseBehindIt: what the socket does not take of the gap
// events is not read again, or a client with many channels would never get on.
func TestCutGapEventIsHeldWithThoseBehindIt(t *testing.T) {
	r := &replay{page: gapPage(false)}
	r.arrange()
	frames := r.page.frames
	for n := range frames[1].end {
		missing, p, events := r.rest(n)
		require.Zero(t, events)
		require.Equal(t, string(r.page.buf[n:frames[1].end]), string(missing))
		require.Equal(t, frames[1].id, p.id)
	}
	for n := frames[1].end; n < frames[2].end; n++ {
		missing, p, events := r.rest(n)
		require.EqualValues(t, 1, events)
		require.Equal(t, string(r.page.buf[n:]), string(missing))
		require.Equal(t, frames[2].id, p.id)
	}
}

// TestDeadlineThatPassedInSleepIsNoLoss: a process that was stopped finds its time
// over, and asks once more before it tells anybody that the history is not there.
func TestDeadlineThatPassedInSleepIsNoLoss(t *testing.T) {
	h := newMemoryHistory()
	h.written = sseproto.ID{Ms: 1000}
	e := startEngine(t, nil)
	passed := time.Unix(1, 0)
	require.NoError(t, e.log.awaitWritten(t.Context(), passed, h, sseproto.ID{Ms: 1000}))
	require.ErrorIs(t, e.log.awaitWritten(t.Context(), passed, h, sseproto.ID{Ms: 1000, Seq: 1}), context.DeadlineExceeded)
}
