//go:build linux

package swarm_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"ssed/loadtest/payload"
	"ssed/loadtest/refserver"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		if swarm.Serve(context.Background(), os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		return
	}
	// Children built with the race detector otherwise sleep a second when they end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	goleak.VerifyTestMain(m)
}

const limit = time.Minute

// rig is a crew in front of a floor server.
type rig struct {
	*swarm.Crew
	t    *testing.T
	plan swarm.Plan
	pub  *target.Publisher
	seqs []uint32
}

func newRig(t *testing.T, processes int, groups ...swarm.Group) *rig {
	floor, err := refserver.StartFloor(0)
	require.NoError(t, err)
	t.Cleanup(floor.Close)
	tg := target.Target{Name: "floor", URL: floor.URL, Publish: floor.PublishURL}
	addr, err := tg.Addr()
	require.NoError(t, err)
	request, err := tg.Request()
	require.NoError(t, err)
	plan := swarm.Plan{
		Addr: addr, Request: request, Prefix: "c", Groups: groups, Processes: processes, Child: []string{os.Args[0], "worker"},
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")},
	}
	crew, err := swarm.Start(plan)
	require.NoError(t, err)
	t.Cleanup(crew.Close)
	pub, err := target.NewPublisher(&tg)
	require.NoError(t, err)
	t.Cleanup(pub.Close)
	return &rig{Crew: crew, t: t, plan: plan, pub: pub, seqs: make([]uint32, 100)}
}

func (r *rig) open(group int, spec swarm.OpenSpec) *swarm.OpenResult {
	spec.Window, spec.Limit = 16, limit
	res, err := r.Open(r.t.Context(), group, spec)
	require.NoError(r.t, err)
	require.NoError(r.t, res.Err())
	return res
}

// send publishes the next message of a channel.
func (r *rig) send(channel uint32) {
	r.seqs[channel]++
	body := payload.Append(nil, channel, r.seqs[channel], swarm.Now(), 100)
	require.NoError(r.t, r.pub.Publish("c"+string('0'+rune(channel)), body))
	require.NoError(r.t, r.pub.Flush())
}

func (r *rig) await(wants ...swarm.Want) {
	r.t.Helper()
	res, err := r.Await(r.t.Context(), limit, wants...)
	require.NoError(r.t, err)
	require.True(r.t, res.Reached)
	require.Positive(r.t, res.Last)
}

func (r *rig) stats() *swarm.Stats {
	st, err := r.Stats(r.t.Context())
	require.NoError(r.t, err)
	return st
}

func eachWay(t *testing.T, f func(t *testing.T, processes int)) {
	t.Run("one process", func(t *testing.T) { f(t, 1) })
	t.Run("three processes", func(t *testing.T) { f(t, 3) })
}

func TestGroupsGetTheMessagesOfTheirChannels(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		r := newRig(t, processes, swarm.Group{Count: 10, Channels: 3}, swarm.Group{Count: 7, First: 5, Channels: 1})
		require.Equal(t, 10, r.open(0, swarm.OpenSpec{}).Opened)
		require.Equal(t, 7, r.open(1, swarm.OpenSpec{}).Opened)
		for _, channel := range []uint32{0, 1, 1, 2, 5, 5, 5} {
			r.send(channel)
		}
		// Channel 0 has 4 of the 10 connections, 1 and 2 have 3 each.
		r.await(swarm.Want{Group: 0, Counts: []uint32{1, 2, 1}}, swarm.Want{Group: 1, Counts: []uint32{3}})
		st := r.stats()
		require.Equal(t, swarm.Counts{Delivered: 4 + 6 + 3 + 21}, st.Counts)
		require.Equal(t, st.Delivered, st.Latency.Count())
		require.Less(t, st.Latency.Max(), limit)

		require.NoError(t, r.Mark(t.Context()))
		require.Zero(t, r.stats().Delivered)
	})
}

func TestAuditTellsWhatNobodyGot(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		r := newRig(t, processes, swarm.Group{Count: 9, Channels: 1})
		r.open(0, swarm.OpenSpec{})
		r.send(0)
		r.await(swarm.Want{Counts: []uint32{1}})
		require.NoError(t, r.Audit(t.Context(), 0, []uint32{3}))
		require.EqualValues(t, 9*2, r.stats().Lost)
		require.NoError(t, r.Audit(t.Context(), 0, []uint32{3}))
		require.EqualValues(t, 9*2, r.stats().Lost, "a loss counts once")
	})
}

func TestReconnectWithIDsKeepsTheExpectedNumbers(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		r := newRig(t, processes, swarm.Group{Count: 6, Channels: 1})
		r.open(0, swarm.OpenSpec{})
		r.send(0)
		r.await(swarm.Want{Counts: []uint32{1}})
		n, err := r.Resumable(t.Context())
		require.NoError(t, err)
		require.Equal(t, 6, n)

		require.NoError(t, r.Drop(t.Context(), 0, true))
		r.send(0) // the floor forgets it
		r.open(0, swarm.OpenSpec{Resume: true})
		r.send(0)
		r.await(swarm.Want{Counts: []uint32{2}})
		require.Equal(t, swarm.Counts{Delivered: 12, Lost: 6}, r.stats().Counts)

		require.NoError(t, r.Drop(t.Context(), 0, false))
		r.open(0, swarm.OpenSpec{Seqs: r.seqs})
		r.send(0)
		r.await(swarm.Want{Counts: []uint32{3}})
		require.EqualValues(t, 6, r.stats().Lost, "a plain connect starts at now")
	})
}

func TestPausedConnectionsAreNotWaitedFor(t *testing.T) {
	r := newRig(t, 2, swarm.Group{Count: 16, Channels: 1}, swarm.Group{Count: 4, Channels: 1})
	r.open(0, swarm.OpenSpec{})
	r.open(1, swarm.OpenSpec{})
	paused, err := r.Pause(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 4, paused)
	r.send(0)
	r.await(swarm.Want{Group: 0, Counts: []uint32{1}}, swarm.Want{Group: 1, Counts: []uint32{1}})
	require.NoError(t, r.Audit(t.Context(), 0, r.seqs))
	require.NoError(t, r.Audit(t.Context(), 1, r.seqs))
	require.Equal(t, swarm.Counts{Delivered: 16}, r.stats().Counts)
}

// TestTightSocketsAreSoonFull: the floor drops what a socket does not take.
func TestTightSocketsAreSoonFull(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		const readers = 0
		r := newRig(t, processes, swarm.Group{Count: 3, Channels: 1}, swarm.Group{Count: 5, Channels: 1, Tight: true}, swarm.Group{Count: 5, Channels: 1})
		for group := range 3 {
			r.open(group, swarm.OpenSpec{})
		}
		full := func(group int, bytes int64) int {
			n, err := r.Full(t.Context(), group, bytes)
			require.NoError(t, err)
			return n
		}
		for group := 1; group < 3; group++ {
			_, err := r.Pause(t.Context(), group)
			require.NoError(t, err)
		}
		const messages, size = 3000, 100
		for range messages {
			r.send(0)
		}
		r.await(swarm.Want{Group: readers, Counts: []uint32{messages}})
		require.Equal(t, 5, full(1, messages*size))
		require.Zero(t, full(1, 5*size), "some did fit")
		require.Zero(t, full(2, messages*size), "300 KB fit a common socket")
		require.Zero(t, full(readers, messages*size), "those that are read do not count")
	})
}

func TestRestingConnectionsWakeNobodyAndLoseNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		r := newRig(t, processes, swarm.Group{Count: 6, Channels: 1})
		r.open(0, swarm.OpenSpec{})
		resting, err := swarm.Start(r.plan)
		require.NoError(t, err)
		defer resting.Close()
		res, err := resting.Open(t.Context(), 0, swarm.OpenSpec{Window: 16, Limit: limit})
		require.NoError(t, errors.Join(err, res.Err()))
		require.NoError(t, resting.Rest(t.Context(), time.Hour))
		r.send(0)
		// The floor writes to the newest member first: when the others have it, these do.
		want := swarm.Want{Counts: []uint32{1}}
		r.await(want)
		_, delivered := resting.Progress()
		require.Zero(t, delivered)

		got, err := resting.Await(t.Context(), limit, want)
		require.NoError(t, err)
		require.True(t, got.Reached, "a command ends the rest")

		require.NoError(t, resting.Rest(t.Context(), 0))
		r.send(0)
		require.Eventually(t, func() bool { _, n := resting.Progress(); return n == 12 }, limit, time.Millisecond)
	})
}

func TestChurnOpensAsManyAsAsked(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		r := newRig(t, processes, swarm.Group{Count: 8, Channels: 1})
		res := r.open(0, swarm.OpenSpec{Churn: 100})
		require.Equal(t, 100, res.Opened)
		require.EqualValues(t, 100, res.Latency.Count())
		require.Positive(t, res.Elapsed())
		open, _ := r.Progress()
		require.Zero(t, open)
	})
}

func TestServerThatEndsStreamsIsCounted(t *testing.T) {
	f := func(end func(c net.Conn)) {
		s := single(t, serve(t, end), 5)
		res, err := s.Open(t.Context(), swarm.OpenSpec{Count: 5, Window: 5, Limit: limit})
		require.NoError(t, err)
		require.Equal(t, 5, res.Opened)
		require.Eventually(t, func() bool {
			st, err := s.Stats(t.Context())
			return err == nil && st.Closed == 5
		}, limit, time.Millisecond)
	}
	f(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nretry: 1\n") })
	// The last chunk, on a connection that stays open for another request.
	f(func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nretry: 1\n\r\n0\r\n\r\n")
		_, _ = c.Read(make([]byte, 1))
	})
}

// serve answers each connection with f and closes it.
func serve(t *testing.T, f func(c net.Conn)) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			f(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func single(t *testing.T, address netip.AddrPort, conns int) *swarm.Swarm {
	s, err := swarm.New(swarm.Config{
		Addr: address, Request: []string{"GET / HTTP/1.1\r\nHost: x\r\n"}, Groups: []swarm.Group{{Count: conns, Channels: 1}},
	})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func TestFailedConnectsAreExplained(t *testing.T) {
	f := func(want string, answer string) {
		t.Helper()
		s := single(t, serve(t, func(c net.Conn) { _, _ = io.WriteString(c, answer) }), 3)
		res, err := s.Open(t.Context(), swarm.OpenSpec{Count: 3, Window: 2, Limit: limit})
		require.NoError(t, err)
		require.Equal(t, 3, res.Failed)
		require.ErrorContains(t, res.Err(), want)
	}
	f("not a 200 but a 503", "HTTP/1.1 503 Full\r\n\r\n")
	f("before a whole response head", "HTTP/1.1 200 OK\r\n")
	f("malformed response", "hello\n")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := single(t, netip.MustParseAddrPort(l.Addr().String()), 2)
	res, err := s.Open(t.Context(), swarm.OpenSpec{Count: 2, Window: 2, Limit: 20 * time.Millisecond})
	require.NoError(t, err)
	require.ErrorContains(t, res.Err(), "no whole response head in time")
	l.Close()
	res, err = s.Open(t.Context(), swarm.OpenSpec{Count: 2, Window: 2, Limit: limit})
	require.NoError(t, err)
	require.ErrorContains(t, res.Err(), "refused")
}

func TestCommandsEndWithTheirContext(t *testing.T) {
	eachWay(t, func(t *testing.T, processes int) {
		r := newRig(t, processes, swarm.Group{Count: 3, Channels: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := r.Await(ctx, time.Hour, swarm.Want{Counts: []uint32{1}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestCommandsToAClosedSwarmFail(t *testing.T) {
	s := single(t, netip.MustParseAddrPort("127.0.0.1:1"), 1)
	s.Close()
	s.Close()
	require.ErrorIs(t, s.Mark(t.Context()), swarm.ErrClosed)
}

func TestWorkerRefusesWhatItDoesNotKnow(t *testing.T) {
	require.Error(t, swarm.Serve(t.Context(), strings.NewReader("nonsense"), io.Discard))
	var out strings.Builder
	require.NoError(t, swarm.Serve(t.Context(), strings.NewReader(`{"addr":"127.0.0.1:1","groups":[]} {"op":"dance"}`), &out))
	require.Contains(t, out.String(), "unknown command")
}

func TestNowIsTheMonotonicClockOfTheHost(t *testing.T) {
	kernel := func() int64 {
		var ts unix.Timespec
		require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
		return ts.Nano()
	}
	const wrong = int64(50 * time.Microsecond) // 2 µs, unless the host was too busy for 100 tries
	for range 1000 {
		before, now, after := kernel(), swarm.Now(), kernel()
		require.GreaterOrEqual(t, now, before-wrong)
		require.LessOrEqual(t, now, after+wrong)
	}
}

func TestSleepEndsAtItsTime(t *testing.T) {
	due := swarm.Now() + int64(2*time.Millisecond)
	swarm.SleepUntil(due)
	require.GreaterOrEqual(t, swarm.Now(), due)
	swarm.SleepUntil(due - int64(time.Hour)) // returns at once
}
