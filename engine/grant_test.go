package engine

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
)

// grantByFields grants what the request says: Subject, Token and Ends.
func grantByFields(_ context.Context, r *AuthRequest) (Grant, error) {
	grant := Grant{
		Channels: r.Channels,
		Subject:  string(r.Request.Header("Subject")), Token: string(r.Request.Header("Token")),
	}
	if ends, err := time.Parse(time.RFC3339Nano, string(r.Request.Header("Ends"))); err == nil {
		grant.Expires = ends
	}
	return grant, nil
}

// as are the fields with which grantByFields names a client.
func as(subject, token string) []string {
	return []string{"Subject: " + subject, "Token: " + token, "", ""}
}

// wallShifted is a time as it would be had the wall clock been set otherwise by d, its
// monotonic reading unchanged: the bits are those of time.Time with hasMonotonic.
func wallShifted(t time.Time, d time.Duration) time.Time {
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(int64(d/time.Second)) << 30
	return t
}

func TestWallShiftedKeepsTheMonotonicReading(t *testing.T) {
	now := time.Now()
	shifted := wallShifted(now, -time.Hour)
	require.Equal(t, now.Unix()-3600, shifted.Unix())
	require.Zero(t, now.Sub(shifted), "by the monotonic clock")
	require.Equal(t, time.Hour, now.Round(0).Sub(shifted))
}

// The clock may have been set after the process began: a grant ends by the clock as it is.
func TestGrantEndsByTheWallClockOfNow(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, time.Hour} { // that of the start
		h := shardByHand(t, nil)
		h.engine.started = wallShifted(h.engine.started, off)
		attach := func(ends time.Time) {
			fd, conn := socketPair(t)
			newTestClient(t, conn)
			h.engine.conns.Add(1)
			h.engine.attach(&front.Stream{FD: fd, Channels: []string{"a"}, Since: h.log.standing(), Ends: ends.Round(0)})
		}
		attach(time.Now().Add(30 * time.Minute))
		attach(time.Now().Add(-time.Second))
		attach(time.Unix(1<<36, 0)) // seconds are 32 bits
		h.pass()
		h.sweeper.owed = float64(h.slots.used)
		h.pass()
		require.Equal(t, 2, h.open)
		require.EqualValues(t, 1, h.count.closed[CloseExpired].Load())
	}
}

// Nothing is sent on a stream whose grant is over: it is closed by the last visit before.
func TestGrantIsClosedByTheLastVisitBeforeItsEnd(t *testing.T) {
	var w sweeper
	for _, heartbeat := range []time.Duration{time.Second, 15 * time.Second, time.Minute, -1} {
		w.init(heartbeat)
		now := time.Now()
		over := time.Unix(int64(w.over(now)), 0)
		require.GreaterOrEqual(t, over, now.Add(w.period/sweepsPerBeat).Truncate(time.Second))
		require.LessOrEqual(t, over, now.Add(w.period/sweepsPerBeat+w.every))
	}
}

func TestConnectionsTellTheSubject(t *testing.T) {
	s := serveEngine(t, Config{Authorizer: authorizer(grantByFields)})
	s.Log().OpenLocal()
	for _, who := range [][]string{as("anna", ""), as("anna", "1"), as("bert", "2"), as("", "")} {
		s.dial().Send(getStream("a", who...))
	}
	eventually(t, func() bool { return s.Stats().Streams == 4 }, "they are served")
	f := func(m Match, want ...string) {
		t.Helper()
		list, next, err := s.Connections(t.Context(), m, "", 10)
		require.NoError(t, err)
		require.Empty(t, next)
		var got []string
		for _, c := range list {
			got = append(got, c.Subject)
		}
		require.ElementsMatch(t, want, got)
	}
	f(Match{}, "anna", "anna", "bert", "")
	f(Match{Subject: "anna"}, "anna", "anna")
	f(Match{Subject: "anna", Channel: "a"}, "anna", "anna")
	f(Match{Subject: "anna", Channel: "b"})
	f(Match{Subject: "anna", Token: "1"}, "anna")
	f(Match{Token: "2"}, "bert")
	f(Match{Subject: "carl"})
	require.Equal(t, 2, s.Stats().Front.Subjects)
}

func TestStreamsAreClosedByWhatTheirGrantsSay(t *testing.T) {
	s := serveEngine(t, Config{Shards: 3, Authorizer: authorizer(grantByFields)})
	s.Log().OpenLocal()
	const each = 700 // more than one answer closes
	open := func() {
		for n := range each {
			s.dial().Send(getStream(fmt.Sprintf("c%d", n%2), as("anna", fmt.Sprint("t", n))...))
		}
		s.dial().Send(getStream("c0", as("bert", "t0")...))
	}
	open()
	eventually(t, func() bool { return s.Stats().Streams == each+1 }, "they are served")
	f := func(m Match, want, left int64) {
		t.Helper()
		n, err := s.CloseStreams(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, want, n)
		eventually(t, func() bool { return s.Stats().Streams == left }, "%d are left", left)
	}
	f(Match{Subject: "carl"}, 0, each+1)
	f(Match{Token: "none"}, 0, each+1)
	f(Match{Channel: "none"}, 0, each+1)
	f(Match{Token: "t0"}, 2, each-1)
	f(Match{Token: "t0"}, 0, each-1)
	f(Match{Token: "t2", Channel: "c1"}, 0, each-1)
	f(Match{Subject: "anna", Channel: "c0"}, each/2-1, each/2)
	f(Match{Subject: "anna"}, each/2, 0)
	require.Zero(t, s.Stats().Front.Subjects, "no name is kept")
	require.EqualValues(t, each+1, s.Stats().Closed[CloseAdmin])
}

// Who is revoked gets no stream, and those that it has are all found, whatever is
// decided at that moment.
func TestWhoIsRevokedHasNoStream(t *testing.T) {
	s := serveEngine(t, Config{Authorizer: authorizer(grantByFields)})
	s.Log().OpenLocal()
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn := s.dial()
				conn.Send(getStream("a", as("anna", "9f3a")...))
				_, err := conn.R.ReadString('\n')
				assert.NoError(t, err)
			}
		})
	}
	eventually(t, func() bool { return s.Stats().Streams > 20 }, "some are there")
	require.NoError(t, s.Revoke(Bearer{Subject: "anna"}, time.Now().Add(time.Hour)))
	closed, err := s.CloseStreams(t.Context(), Match{Subject: "anna"})
	require.NoError(t, err)
	require.NotZero(t, closed)
	refused := s.Stats().Front.Refused[front.RefuseRevoked]
	eventually(t, func() bool { return s.Stats().Front.Refused[front.RefuseRevoked] > refused+20 }, "they come again")
	close(stop)
	clients.Wait()
	list, _, err := s.Connections(t.Context(), Match{Subject: "anna"}, "", 10)
	require.NoError(t, err)
	require.Empty(t, list)

	status, _, body := s.dial().Send(getStream("a", as("anna", "")...)).Whole()
	require.Equal(t, 403, status)
	require.Equal(t, "access was withdrawn\n", body)
	head := s.dial().Send(strings.Replace(getStream("a", as("anna", "")...), "GET", "HEAD", 1))
	require.Equal(t, 403, head.Answer(http.MethodHead).StatusCode)
	require.Equal(t, 1, s.Stats().Front.Revoked)
	s.dial().Send(getStream("a", as("bert", "9f3a")...))
	eventually(t, func() bool { return s.Stats().Streams == 1 }, "others are let in")
	require.NoError(t, s.Revoke(Bearer{Token: "9f3a"}, time.Now().Add(time.Hour)))
	status, _, _ = s.dial().Send(getStream("a", as("bert", "9f3a")...)).Whole()
	require.Equal(t, 403, status)
}

func TestSubjectHasOnlySoManyStreams(t *testing.T) {
	s := serveEngine(t, Config{MaxPerSubject: 2, Authorizer: authorizer(grantByFields)})
	s.Log().OpenLocal()
	first := s.dial().Send(getStream("a", as("anna", "")...))
	s.dial().Send(getStream("a", as("anna", "")...))
	for range 3 {
		s.dial().Send(getStream("a", as("", "")...)) // nobody in particular
	}
	eventually(t, func() bool { return s.Stats().Streams == 5 }, "they are served")
	status, header, _ := s.dial().Send(getStream("a", as("anna", "")...)).Whole()
	require.Equal(t, 429, status)
	require.NotEmpty(t, header.Get("Retry-After"))
	soft := s.dial().Send(getStream("a", append([]string{asEventSource}, as("anna", "")...)...))
	require.Equal(t, 200, soft.Answer(http.MethodGet).StatusCode, "a browser would never come back")
	soft.RequireRetry(0, time.Hour)
	require.EqualValues(t, 2, s.Stats().Front.Refused[front.RefuseSubject])
	s.dial().Send(getStream("a", as("bert", "")...))
	eventually(t, func() bool { return s.Stats().Streams == 6 }, "another subject")

	require.NoError(t, first.Close())
	eventually(t, func() bool { return s.Stats().Streams == 5 }, "one leaves")
	s.dial().Send(getStream("a", as("anna", "")...))
	eventually(t, func() bool { return s.Stats().Streams == 6 }, "and makes room")
}

// A grant that is out of bounds is none.
func TestOverlongSubjectIsNoDecision(t *testing.T) {
	long := strings.Repeat("a", MaxSubjectBytes+1)
	s := serveEngine(t, Config{Authorizer: authorizer(grantByFields)})
	s.Log().OpenLocal()
	for _, who := range [][]string{as(long, ""), as("", long)} {
		status, _, _ := s.dial().Send(getStream("a", who...)).Whole()
		require.Equal(t, 503, status)
	}
}

// TestCredentialsCostNothingWithoutGrants, and little with them.
func TestCredentialsCostNothingWithoutGrants(t *testing.T) {
	var c credentials
	c.set(5000, &front.Stream{})
	c.clear(5000)
	require.Empty(t, c.chunks)
	require.Empty(t, c.tokens)
	require.EqualValues(t, 8, unsafe.Sizeof(credential{}))
	c.set(5000, &front.Stream{Subject: 7})
	require.Equal(t, credential{subject: 7}, c.get(5000))
	require.Empty(t, c.tokens)
	c.set(5001, &front.Stream{Token: 9})
	require.Zero(t, c.get(5001))
	require.EqualValues(t, 9, c.token(5001))
	c.clear(5000)
	c.clear(5001)
	require.Zero(t, c.get(5000))
	require.Zero(t, c.token(5001))
	require.Zero(t, c.get(1<<20))
}
