package rstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// startReason marks what lies before the first position of an empty Redis. To
// readers it is an outage.
const startReason = "start"

// skip offers to go on from low. When the offer wins, the script has written a
// gap marker over (watermark, low] and given this instance the lease.
func (w *writer) skip(ctx context.Context, low sseproto.ID) outcome {
	g := gap{stretch{w.watermark, low}, w.skipReason()}
	a := w.run(ctx, skipScript, redisconn.Call{
		Keys: []string{w.keys.Clock, w.keys.Lease, w.keys.Gaps, w.keys.InboxNotes, w.keys.Rejected},
		Args: []string{
			w.epoch, w.watermark.String(), low.String(), w.cfg.Instance, millis(w.cfg.GapWait),
			millis(w.cfg.LeaseTTL), g.reason, strconv.Itoa(maxMarkers),
			millis(w.cfg.there()), millis(w.cfg.assembled()),
			w.keys.Prefix, millis(w.policies.leastTTL()), w.policies.text, w.policies.caps(), w.cfg.ServerOf(low),
		},
	})[0]
	if a.err != nil {
		if redisconn.Code(a.err) == "" {
			w.unsure = &g
		}
		return w.failed(a.err.Error(), redisconn.Code(a.err))
	}
	w.recovered()
	lost := w.covered
	w.adopt(a)
	w.covered = lost && a.watermark == g.from // an offer that stands keeps its reason
	switch a.status {
	case statusOK:
		w.marked(g)
		w.count.saved.Add(uint64(a.n))
		w.tookOver(a)
		return again()
	case statusWait:
		if a.holder == w.cfg.Instance {
			// It was to be given up before, and the answer was that of a server that had just
			// been demoted: the others may not even offer while it stands.
			w.free(ctx)
		}
		// The last of the others may offer at any moment, and everybody's live
		// streams may be waiting for what comes after the gap.
		w.state = offering
		return after(min(w.cfg.poll()/4, time.Duration(a.n)*time.Millisecond))
	case statusHeld:
		return after(w.cfg.poll())
	case statusServer:
		w.refusedBy(a)
		return w.leaveOut(ctx, low)
	}
	w.refusedBy(a)
	return retryIf(a.epoch != "", w.cfg.poll())
}

// leaveOut goes on behind the stretch of the log that begins at low, which Redis has refused: its
// server had been replaced. When nothing follows the feed has to find the other server first.
// O(messages of that stretch).
func (w *writer) leaveOut(ctx context.Context, low sseproto.ID) outcome {
	none := func(sseproto.ID, string, sseproto.Message, sseproto.ID) {}
	through, _ := w.src.ReadCommitted(low, math.MaxInt, math.MaxInt, none)
	if _, next := w.src.ReadCommitted(through, 1, 1, none); next != through && next != sseproto.MaxID {
		w.covered = false // nothing that counts
		return w.skip(ctx, next)
	}
	return after(w.cfg.poll())
}

// marked counts a gap marker of this instance.
func (w *writer) marked(g gap) {
	w.count.gaps.Add(1)
	if g.reason == startReason {
		w.log.Info("history: starts", "to", g.to)
		return
	}
	// No error of this instance: a single one that restarts leaves a gap too.
	w.log.Warn("history: a gap: messages may be missing", "after", g.from, "to", g.to, "reason", g.reason)
}

func (w *writer) skipReason() string {
	switch {
	case w.watermark.IsZero():
		return startReason
	case w.covered:
		// The log had it and let go of it before it was written.
		return sseproto.ReasonUnavailable
	}
	return sseproto.ReasonOutage
}

// Invalidate adds a gap marker over (from, to] without moving the watermark: what
// an instance served there turned out to be unreliable. It tries until it is
// done or ctx ends; saying it twice does no harm.
func (s *Store) Invalidate(ctx context.Context, from, to sseproto.ID) error {
	if !from.Less(to) {
		return fmt.Errorf("rstore: invalidated range (%v, %v] is empty", from, to)
	}
	c := redisconn.Call{
		Keys: []string{s.keys.Clock, s.keys.Lease, s.keys.Gaps},
		Args: []string{from.String(), to.String(), sseproto.ReasonOutage, s.cfg.Instance, strconv.Itoa(maxMarkers)},
	}
	for try := 0; ; try++ {
		a := s.run(ctx, invalidateScript, c)[0]
		if a.err == nil {
			s.count.gaps.Add(uint64(a.n))
			s.count.invalidations.Add(uint64(a.n))
			return nil
		}
		s.count.failed(redisconn.Code(a.err))
		if errors.Is(a.err, redisconn.ErrClosed) {
			return a.err
		}
		pause(ctx, min(s.cfg.poll(), time.Millisecond<<min(try, 10)))
		if ctx.Err() != nil {
			return fmt.Errorf("rstore: invalidated range (%v, %v]: %w: %w", from, to, ctx.Err(), a.err)
		}
	}
}

// stretch is (from, to].
type stretch struct{ from, to sseproto.ID }

func (m stretch) overlaps(after, upTo sseproto.ID) bool {
	return after.Less(m.to) && m.from.Less(upTo)
}

// gap is what a marker tells: a stretch lost in all channels.
type gap struct {
	stretch
	reason string
}

var errMarker = errors.New("rstore: malformed gap marker")

// parseStretch reads "from to", and what follows a further space.
func parseStretch(s string) (m stretch, rest string, err error) {
	from, rest, _ := strings.Cut(s, " ")
	to, rest, _ := strings.Cut(rest, " ")
	if m.from, err = sseproto.ParseID(from); err == nil {
		m.to, err = sseproto.ParseID(to)
	}
	if err != nil {
		return stretch{}, "", fmt.Errorf("%w: %q", errMarker, s)
	}
	return m, rest, nil
}

// parseMarker reads "from to reason instance ms".
func parseMarker(s string) (gap, error) {
	m, rest, err := parseStretch(s)
	if err != nil {
		return gap{}, err
	}
	reason, _, _ := strings.Cut(rest, " ")
	switch reason {
	case "", startReason:
		reason = sseproto.ReasonOutage
	}
	return gap{m, reason}, nil
}
