package rstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// midway is a recorder that does something at the first event it is told.
type midway struct {
	*recorder
	once sync.Once
	do   func()
}

func (r *midway) Event(ch int, id sseproto.ID, m sseproto.Message) {
	r.recorder.Event(ch, id, m)
	r.once.Do(r.do)
}

// A read of many channels is several pipelines. Redis may lose everything between two.
func TestFlushBetweenTwoPipelinesIsTold(t *testing.T) {
	w := newWorld(t)
	const n = 4 * minChunk
	w.clock("e1")
	log := newTestLog(w.id(0, 0))
	log.commit(w.id(2, 0), w.burst(1, n, n)...)
	s := w.store(w.config("a"), log)
	stop := w.start(s)
	w.waitMark(s, w.id(2, 0))
	stop() // nobody fills the history again
	channels := make([]string, n)
	for i := range channels {
		channels[i] = fmt.Sprint("ch", i)
	}
	r := &midway{recorder: newRecorder(), do: func() { require.NoError(t, w.do("FLUSHALL").Error()) }}
	require.NoError(t, s.Range(t.Context(), channels, w.id(1, 0), w.id(2, 0), r))
	require.Len(t, r.events, minChunk)
	for ch := range n {
		require.True(t, len(r.events[ch]) == 1 || len(r.lost[ch]) == 1, "channel %d: silence", ch)
	}
}

// A channel of several pages may go on from a primary that lacks its end.
func TestPrimaryThatLacksTheEndOfAChannelIsTold(t *testing.T) {
	w := newWorld(t)
	all := w.burst(1, maxPage+500, 1)
	s := w.written(w.config("a"), w.id(2, 0), all...)
	left := all[:maxPage+100]
	r := &midway{recorder: newRecorder(), do: func() {
		require.NoError(t, w.do("DEL", testPrefix+"ch0").Error())
		for _, m := range left {
			require.NoError(t, w.do("XADD", testPrefix+"ch0", m.id.String(), "data", m.data).Error())
		}
		require.NoError(t, w.do("HSET", s.keys.Clock, "watermark", left[len(left)-1].id.String()).Error())
	}}
	require.NoError(t, s.Range(t.Context(), []string{"ch0"}, w.id(1, 0), w.id(2, 0), r))
	require.Len(t, r.events[0], len(left))
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[0])
}

// wire is a connection that has something happen in the middle of its next pipeline.
type wire struct {
	net.Conn
	middle *atomic.Pointer[func()]
}

func (c wire) Write(b []byte) (int, error) {
	do := c.middle.Swap(nil)
	if do == nil {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	(*do)()
	rest, err := c.Conn.Write(b[n:])
	return n + rest, err
}

// called reports whether Redis has run a command.
func (w *world) called(command string) bool {
	info, err := w.do("INFO", "commandstats").ToString()
	require.NoError(w.t, err)
	return strings.Contains(info, "cmdstat_"+command+":")
}

// Redis serves others between two commands of a pipeline, FLUSHALL among them.
func TestFlushWithinAPipelineIsTold(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	var middle atomic.Pointer[func()]
	cfg := w.config("a")
	cfg.Client.PipelineMultiplex = -1 // one connection, which stands when it is armed
	cfg.Client.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		c, err := d.DialContext(ctx, "tcp", addr)
		return wire{c, &middle}, err
	}
	log := newTestLog(w.id(0, 0))
	log.commit(w.id(2, 0), w.burst(1, minChunk, minChunk)...)
	s := w.store(cfg, log)
	stop := w.start(s)
	w.waitMark(s, w.id(2, 0))
	stop()
	channels := make([]string, minChunk)
	for i := range channels {
		channels[i] = fmt.Sprint("ch", i)
	}
	_, err := s.Written(t.Context()) // connected
	require.NoError(t, err)
	flush := func() {
		for !w.called("xrange") && t.Context().Err() == nil { // the first half is on its way
		}
		require.NoError(t, w.do("FLUSHALL").Error())
	}
	middle.Store(&flush)
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), channels, w.id(1, 0), w.id(2, 0), r))
	require.NotEmpty(t, r.events)
	require.Less(t, len(r.events), minChunk, "the flush came in between")
	for ch := range channels {
		require.True(t, len(r.events[ch]) == 1 || len(r.lost[ch]) == 1, "channel %d: silence", ch)
	}
}

// A Redis that stalls at the second page of a channel ends the read: what was reported
// is not reported again.
func TestStallAtAFurtherPageRepeatsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.clock("e1")
	var stalled atomic.Bool
	cfg := w.config("a")
	cfg.Client.ConnWriteTimeout, cfg.Client.Dialer.KeepAlive = 500*time.Millisecond, 500*time.Millisecond
	cfg.Client.PipelineMultiplex = -1 // one connection, so that a dial is one made anew
	cfg.Client.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		if stalled.Swap(false) { // given up on the connection; whoever tries again is answered
			if err := w.server.Resume(); err != nil {
				return nil, err
			}
		}
		return d.DialContext(ctx, "tcp", addr)
	}
	log := newTestLog(w.id(0, 0))
	log.commit(w.id(2, 0), w.burst(1, 2*(maxPage+500), 2)...)
	s := w.store(cfg, log)
	stop := w.start(s)
	w.waitMark(s, w.id(2, 0))
	stop()
	r := &midway{recorder: newRecorder(), do: func() {
		stalled.Store(true)
		require.NoError(t, w.server.Pause())
	}}
	err := s.Range(t.Context(), []string{"ch0", "ch1"}, w.id(1, 0), w.id(2, 0), r)
	require.NoError(t, w.server.Resume())
	for ch, list := range r.events {
		for i := 1; i < len(list); i++ {
			require.True(t, list[i-1].id.Less(list[i].id), "channel %d: %v before %v", ch, list[i-1].id, list[i].id)
		}
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}
