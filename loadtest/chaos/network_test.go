//go:build linux

package main

import (
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// behindRelay starts a server behind a relay. This process is the host "here".
func behindRelay(t *testing.T) (n *network, s *redistest.Server, relay string) {
	t.Helper()
	s = redistest.Start(t)
	n = newNetwork(clock{time.Now()}, func() map[host][]int { return map[host][]int{"here": {os.Getpid()}} })
	t.Cleanup(n.close)
	port, err := n.relay("there", s.Port())
	require.NoError(t, err)
	return n, s, localAddr(port)
}

func dialRelay(t *testing.T, relay string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", relay)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// ask sends a command and reads a short answer; "" when none comes.
func ask(t *testing.T, c net.Conn, command string, wait time.Duration) string {
	t.Helper()
	_, err := c.Write([]byte(command + "\r\n"))
	require.NoError(t, err)
	return answer(t, c, wait)
}

func answer(t *testing.T, c net.Conn, wait time.Duration) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	return string(b[:n])
}

const (
	comes    = time.Minute            // an answer takes less on any machine
	comesNot = 200 * time.Millisecond // one that must not come would take microseconds
)

func TestDividedNetworkCarriesNothingAndClosesNothing(t *testing.T) {
	n, s, relay := behindRelay(t)
	c := dialRelay(t, relay)
	require.Equal(t, "+PONG\r\n", ask(t, c, "PING", comes))
	n.divide(noWay, "there")
	require.Empty(t, ask(t, c, "INCR late", comesNot))
	reply, err := s.Do("GET", "late")
	require.NoError(t, err)
	require.Nil(t, reply, "it has arrived")
	n.heal()
	require.Equal(t, ":1\r\n", answer(t, c, comes), "it arrives late")
	n.divide(noWay, "elsewhere")
	require.Equal(t, ":2\r\n", ask(t, c, "INCR late", comes), "both are on the same side")
}

func TestNetworkThatIsDividedInOneDirection(t *testing.T) {
	n, s, relay := behindRelay(t)
	c := dialRelay(t, relay)
	require.Equal(t, "+PONG\r\n", ask(t, c, "PING", comes))
	n.divide(inward, "there") // it is not heard
	require.Empty(t, ask(t, c, "INCR inward", comesNot))
	require.Eventually(t, func() bool {
		reply, err := s.Do("GET", "inward")
		return err == nil && reply == "1"
	}, comes, time.Millisecond, "what is sent to it arrives")
	n.heal()
	require.Equal(t, ":1\r\n", answer(t, c, comes))
	n.divide(outward, "there") // it hears nobody
	require.Empty(t, ask(t, c, "INCR outward", comesNot))
	reply, err := s.Do("GET", "outward")
	require.NoError(t, err)
	require.Nil(t, reply)
	n.heal()
	require.Equal(t, ":1\r\n", answer(t, c, comes))
}

// TestConnectionsWaitForTheNetworkToBeWhole, but for those that were given up meanwhile: the
// packet that begins a connection is not kept by anybody.
func TestConnectionsWaitForTheNetworkToBeWhole(t *testing.T) {
	n, s, relay := behindRelay(t)
	n.divide(noWay, "there")
	waiting, givenUp := dialRelay(t, relay), dialRelay(t, relay)
	require.Empty(t, ask(t, waiting, "INCR waiting", comesNot))
	_, err := givenUp.Write([]byte("INCR givenUp\r\n"))
	require.NoError(t, err)
	require.NoError(t, givenUp.Close())
	n.heal()
	require.Equal(t, ":1\r\n", answer(t, waiting, comes))
	reply, err := s.Do("GET", "givenUp")
	require.NoError(t, err)
	require.Nil(t, reply)
}

func TestEndsGoThroughARelay(t *testing.T) {
	_, s, relay := behindRelay(t)
	c := dialRelay(t, relay)
	require.Equal(t, "+OK\r\n", ask(t, c, "QUIT", comes))
	require.NoError(t, c.SetReadDeadline(time.Now().Add(comes)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	s.Kill()
	if late, err := net.Dial("tcp4", relay); err == nil { // else it is reset already
		defer late.Close()
		require.NoError(t, late.SetReadDeadline(time.Now().Add(comes)))
		_, err = late.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "nobody listens behind it")
	}
}

func TestPublishersAreOnASide(t *testing.T) {
	n := newNetwork(clock{time.Now()}, func() map[host][]int { return nil })
	defer n.close()
	_, err := n.relay(hostOf(1), 1)
	require.NoError(t, err)
	one, other := localAddr(1), localAddr(2)
	f := func(isReached, isWithMost bool) {
		t.Helper()
		require.Equal(t, isReached, n.reaches(publisherHost(0), one), strconv.Itoa(0))
		require.Equal(t, isWithMost, n.isWithMost(one))
		require.True(t, n.reaches(publisherHost(1), other))
		require.True(t, n.reaches(everywhere, one))
	}
	f(true, true)
	n.divide(noWay, hostOf(1))
	f(false, false)
	n.divide(inward, hostOf(1)) // no answer comes
	f(false, false)
	n.divide(outward, hostOf(1))
	f(false, false)
	n.divide(noWay, hostOf(1), publisherHost(0))
	f(true, false)
	n.heal()
	f(true, true)
	n.divide(noWay, hostOf(1))
	now := n.clock.now()
	require.False(t, n.isApartForLong(one, now))
	require.True(t, n.isApartForLong(one, now+soonestReplaced))
	require.False(t, n.isApartForLong(other, now+soonestReplaced))
	require.True(t, (*network)(nil).reaches(publisherHost(0), one), "there is no such network")
}

func TestReplacementIsNoticedLate(t *testing.T) {
	var p primary
	p.set("a", 0)
	p.set("a", at(100))
	p.set("b", at(200)) // 2 s
	require.Equal(t, "b", p.get())
	require.True(t, p.wasReplaced("a", at(150)))
	require.False(t, p.wasReplaced("a", at(201)), "it is a later time of its own")
	require.False(t, p.wasReplaced("b", at(150)))
	p.set("c", at(600))
	require.False(t, p.wasReplaced("b", at(200)), "long before")
	require.True(t, p.wasReplaced("b", at(599)))
}
