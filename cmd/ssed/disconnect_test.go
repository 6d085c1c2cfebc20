package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"ssed/internal/admin"
	"ssed/internal/redistest"
)

// connectAs opens a stream with a token, whose answer has the status.
func connectAs(t testing.TB, in *instance, status int, token, lastID string, channels ...string) *eventStream {
	t.Helper()
	s, resp, err := tryConnectAs(t, in, token, lastID, channels...)
	require.NoError(t, err)
	require.Equal(t, status, resp.StatusCode)
	return s
}

// freeze stops the process and waits until all its threads stand still: a signal comes
// when they are next scheduled.
func (in *instance) freeze() {
	in.t.Helper()
	in.Signal(syscall.SIGSTOP)
	in.eventually("all threads are stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", in.Pid()))
		require.NoError(in.t, err)
		require.NotEmpty(in.t, threads)
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			_, state, _ := strings.Cut(string(stat), ") ") // behind the name, proc(5)
			if err != nil || !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return true
	})
}

// Somebody whose access is withdrawn is put out of the whole fleet at once and stays out:
// on the instance that was asked, on others, on one that was away, on one that begins later.
func TestRevokedUserIsPutOutOfTheFleet(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	secret := secretFile(t, testSecret)
	begin := func(name string) *instance {
		t.Helper()
		in := startRedis(t, r, "--instance", name, "--auth", "jwt", "--auth-jwt-secret-file", secret)
		in.waitReady()
		return in
	}
	one, two, away := begin("one"), begin("two"), begin("away")
	one.eventually("all are listed", func() bool {
		var fleet struct{ Instances []admin.Instance }
		one.api("GET", "/api/instances", "", 200, &fleet)
		return len(fleet.Instances) == 3
	})
	token := func(sub, jti string) string {
		return tokenFor(t, jwt.MapClaims{"sub": sub, "jti": jti, "channels": []string{"*"}, "exp": time.Now().Add(time.Hour).Unix()})
	}
	var annas, berts []*eventStream
	for _, in := range []*instance{one, two, away} {
		annas = append(annas, connectAs(t, in, 200, token("anna", "1"), "", "a", in.t.Name()), connectAs(t, in, 200, token("anna", "2"), "", "b"))
		berts = append(berts, connectAs(t, in, 200, token("bert", "3"), "", "a"))
	}
	for _, in := range []*instance{one, two, away} {
		in.eventually("three streams", func() bool { return in.metric("ssed_streams") == 3 })
		require.EqualValues(t, 2, in.metric("ssed_subjects"))
	}
	var page struct{ Connections []admin.Connection }
	two.api("GET", "/api/connections?sub=bert", "", 200, &page)
	require.Len(t, page.Connections, 1)
	require.Equal(t, "bert", page.Connections[0].Subject)

	var closed admin.Closed
	one.api("DELETE", "/api/connections?token=2", "", 200, &closed)
	want := admin.Closed{Connections: 3, Asked: 3, Answered: 3, Instances: []admin.ClosedShare{
		{Instance: "away", Connections: 1}, {Instance: "one", Connections: 1}, {Instance: "two", Connections: 1},
	}}
	require.Equal(t, want, closed)
	for n, s := range annas {
		if n%2 == 1 {
			s.wantEnd()
			require.Positive(t, s.retry.Load(), "it may come back")
		}
	}
	long := url.QueryEscape(strings.Repeat("é", 127))
	one.api("DELETE", "/api/connections?sub="+long+"&token="+long+"&channel="+long, "", 200, &closed)
	require.Equal(t, 3, closed.Answered, "the longest order")
	require.Zero(t, closed.Connections)
	back := connectAs(t, two, 200, token("anna", "2"), "", "b")

	away.freeze()
	one.api("DELETE", "/api/connections?sub=anna&for=1h", "", 200, &closed)
	require.Equal(t, 3, closed.Asked)
	require.Equal(t, 2, closed.Answered, "the frozen one is left out")
	require.EqualValues(t, 3, closed.Connections)
	annas[0].wantEnd()
	annas[2].wantEnd()
	back.wantEnd()
	away.Signal(syscall.SIGCONT)
	annas[4].wantEnd()
	later := begin("later")
	later.eventually("it has learned who is kept out", func() bool { return later.metric("ssed_revoked") == 1 })
	for _, in := range []*instance{one, two, away, later} {
		connectAs(t, in, 403, token("anna", "1"), "", "a").wantEnd()
		connectAs(t, in, 200, token("bert", "3"), "", "a")
	}
	publish := newPublisher(t, r)
	publish.publish("a", "for bert")
	for _, s := range berts {
		s.want("for bert")
	}
	one.logs(`"msg":"admin: audit","method":"DELETE","target":"/api/connections?sub=anna&for=1h","status":200`)
	two.logs(`"msg":"ssed: streams were closed by an operator"`)
}

// Without Redis the instance is alone, and works alike.
func TestEmbeddedPutsSomebodyOut(t *testing.T) {
	in := start(t, "--auth", "jwt", "--auth-jwt-secret-file", secretFile(t, testSecret), "--max-connections-per-subject", "2", "--log-level", "debug")
	token := tokenFor(t, jwt.MapClaims{"sub": "anna", "channels": []string{"*"}})
	first := connectAs(t, in, 200, token, "", "a")
	connectAs(t, in, 200, token, "", "b")
	in.eventually("a line for each at debug", func() bool {
		return strings.Count(in.Log(), `"msg":"auth: a stream was granted","subject":"anna"`) == 2
	})
	in.eventually("two streams", func() bool { return in.metric("ssed_streams") == 2 })
	connectAs(t, in, 200, token, "", "b").wantEnd() // an EventSource is asked to come later
	require.EqualValues(t, 1, in.metric("ssed_refused_total"))
	var closed admin.Closed
	in.api("DELETE", "/api/connections?channel=a", "", 200, &closed)
	require.EqualValues(t, 1, closed.Connections)
	first.wantEnd()
	in.api("DELETE", "/api/connections?sub=anna&for=1h", "", 200, &closed)
	require.EqualValues(t, 1, closed.Connections)
	connectAs(t, in, 403, token, "", "a").wantEnd()
}

// A stream that comes to the end of its grant is closed with a time to come back and a
// place to go on from: with a fresh token nothing is lost.
func TestRenewalLosesNothing(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-SSE-Subject", "anna")
		w.Header().Set("X-SSE-Expires", r.Header.Get("Authorization")[len("Bearer "):])
	}))
	defer service.Close()
	in := start(t, "--auth-url", service.URL, "--auth-require-exp", "--heartbeat", "1s")
	until := func(d time.Duration) string { return fmt.Sprint(time.Now().Add(d).Unix()) }
	quiet := connectAs(t, in, 200, until(8*time.Second), "", "quiet")
	s := connectAs(t, in, 200, until(8*time.Second), "", "a")
	in.eventually("both are served", func() bool { return in.metric("ssed_streams") == 2 })
	in.publish("a", "1")
	s.want("1")
	for _, ending := range []*eventStream{s, quiet} {
		ending.wantEnd()
		require.Positive(t, ending.retry.Load())
	}
	in.publish("a", "2")
	in.publish("quiet", "3")
	connectAs(t, in, 200, until(time.Hour), s.lastID, "a").want("2")
	connectAs(t, in, 200, until(time.Hour), quiet.place, "quiet").want("3")
	connectAs(t, in, 401, until(-time.Hour), s.lastID, "a").wantEnd()
}
