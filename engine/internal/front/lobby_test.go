//go:build linux

package front

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/engine/internal/wiretest"
)

// fullHost serves, and has no place left even to refuse somebody.
func fullHost(t *testing.T) *host {
	h := serve(t, Config{MaxConnections: 1, HandshakeTimeout: time.Minute, RetryMin: time.Second, RetryMax: time.Second})
	h.conns.Add(1 + RefusalSlots)
	t.Cleanup(func() { h.conns.Add(-1 - RefusalSlots) })
	return h
}

// An orchestrator that asks for the health of a server under a flood must not be told of
// the flood: it would end the process.
func TestProbesAreAnsweredTruthfullyBeyondAllLimits(t *testing.T) {
	h := fullHost(t)
	late := 0 // requests that came more than lobbyWait behind their connection: of this machine
	f := func(request string, status int, body string) {
		t.Helper()
		for n := 0; n < 5; n++ { // whole when it is accepted, or right behind
			began := time.Now()
			w := h.dialFrom("").Send(request)
			inTime := time.Since(began) < lobbyWait
			resp := w.Answer(http.MethodGet)
			if !inTime && resp.Header.Get("Content-Type") == "text/event-stream; charset=utf-8" {
				n--
				late++
				continue
			}
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, status, resp.StatusCode)
			require.Equal(t, body, string(text))
			require.True(t, resp.Close, "it says what it does")
			require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
			w.RequireEnd()
		}
	}
	ready := strings.Replace(getHealth, "health", "ready", 1)
	f(getHealth, 200, "ok\n")
	f(ready, 200, "ready\n")
	require.EqualValues(t, late, h.front.Stats().Refused[RefuseFull])
	h.notReady.Store(true)
	f(ready, 503, "no feed\n")
	f(getHealth, 200, "ok\n")
	f(getStream("a"), 503, "overloaded\n")
	f(strings.Replace(getHealth, "health", "nowhere", 1), 503, "overloaded\n")
	require.EqualValues(t, 10+late, h.front.Stats().Refused[RefuseFull])
	w := h.dialFrom("").Send(getStream("a", asEventSource))
	require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
	w.RequireRetry(4*time.Second, 4*time.Second)
}

// Connections that send nothing do not keep a probe out: the longest waiting one goes.
func TestSilentConnectionsMakeRoomInTheLobby(t *testing.T) {
	h := fullHost(t)
	var silent []*wiretest.Conn
	for range 3 * lobbySize {
		silent = append(silent, h.dialFrom(""))
	}
	late := -1 // probes whose request came later than lobbyWait after them
	for answer := []byte(nil); !bytes.HasSuffix(answer, []byte("\r\n\r\nok\n")); late++ {
		require.Less(t, late, 100, "it is not kept out")
		probe := h.dialFrom("")
		_, _ = io.WriteString(probe, getHealth) // a late one may find the connection closed
		answer, _ = io.ReadAll(probe)
	}
	for _, w := range silent {
		require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
		w.RequireRetry(4*time.Second, 4*time.Second)
		w.RequireEnd()
	}
	require.EqualValues(t, len(silent)+late, h.front.Stats().Refused[RefuseFull])
	eventually(t, func() bool {
		h.front.lobby.mu.Lock()
		defer h.front.lobby.mu.Unlock()
		return len(h.front.lobby.waiting) == 0
	}, "nobody waits any more")
}

// A probe that is sent away, or whose time is up, before the lobby gets to
// read what it has sent, is answered truthfully.
func TestProbeThatTheLobbyReadsLateIsAnsweredTruthfully(t *testing.T) {
	h := fullHost(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	client := os.NewFile(uintptr(pair[1]), "probe")
	defer client.Close()
	_, err = client.WriteString(getHealth)
	require.NoError(t, err)
	conn := os.NewFile(uintptr(pair[0]), "refused")
	require.NoError(t, conn.SetReadDeadline(atOnce))
	lobby := &h.front.lobby
	lobby.mu.Lock()
	lobby.open++
	lobby.mu.Unlock()
	lobby.answer(conn, RefuseFull)
	answer, err := io.ReadAll(client)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(answer), "\r\n\r\nok\n"), "%s", answer)
	require.Zero(t, h.front.Stats().Refused[RefuseFull])
}

// Who waits in the lobby when the server closes is answered.
func TestClosedLobbyAnswersAndTakesNobody(t *testing.T) {
	h := listenOnly(t, Config{})
	client := h.dialFrom("")
	fd, _, err := unix.Accept4(h.front.listeners[0].fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	require.NoError(t, err)
	require.True(t, h.front.lobby.take(fd, RefuseFull))
	h.front.lobby.close()
	require.Equal(t, "text/event-stream; charset=utf-8", client.Answer(http.MethodGet).Header.Get("Content-Type"))
	require.False(t, h.front.lobby.take(-1, RefuseFull))
}

// A flood comes faster than those who are sent away are answered: the goroutines for that
// get no processor. Their files are bounded all the same.
func TestFloodOfTheLobbyTakesNoFurtherFiles(t *testing.T) {
	h := fullHost(t)
	pairs := make([][2]int, 4*lobbySize)
	for i := range pairs {
		var err error
		pairs[i], err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	most, taken := 0, make([]bool, len(pairs))
	for i, pair := range pairs {
		taken[i] = h.front.lobby.take(pair[0], RefuseFull)
		open := 0
		for n := range i + 1 {
			if taken[n] && isOpen(pairs[n][0]) {
				open++
			}
		}
		most = max(most, open)
	}
	require.LessOrEqual(t, most, 2*lobbySize)
	for i, pair := range pairs {
		if !taken[i] {
			require.NoError(t, unix.Close(pair[0]))
		}
		require.NoError(t, unix.Close(pair[1]))
	}
	eventually(t, func() bool {
		h.front.lobby.mu.Lock()
		defer h.front.lobby.mu.Unlock()
		return h.front.lobby.open == 0
	}, "all are answered")
}

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}
