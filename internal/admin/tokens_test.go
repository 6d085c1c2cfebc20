package admin

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	allToken     = "all-0123456789abcdef"
	readToken    = "read-0123456789abcdef"
	publishToken = "publish-0123456789abcdef"
)

// everything are a request of each route, with the role that it takes.
var everything = []struct {
	need         Role
	method, path string
	body         string
}{
	{RoleRead, "GET", "/", ""},
	{RoleRead, "GET", "/metrics", ""},
	{RoleRead, "GET", "/api/stats", ""},
	{RoleRead, "GET", "/api/stats/recent", ""},
	{RoleRead, "HEAD", "/api/live", ""},
	{RoleRead, "GET", "/api/gaps", ""},
	{RoleRead, "GET", "/api/instances", ""},
	{RoleRead, "GET", "/api/partitions", ""},
	{RoleRead, "GET", "/api/channels", ""},
	{RoleRead, "GET", "/api/channels/a", ""},
	{RoleRead, "GET", "/api/connections", ""},
	{RoleRead, "GET", "/api/history/a", ""},
	{RolePublish, "POST", "/publish?channel_id=a", "x"},
	{RolePublish, "POST", "/api/send", `{"channel_id":"a","data":"x"}`},
	{RolePublish, "POST", "/api/batch", `{"channel_id":"a","data":"x"}`},
	{RolePublish, "GET", "/api/position", ""},
	{RoleAll, "DELETE", "/api/connections/0-7", ""},
	{RoleAll, "DELETE", "/api/connections?sub=anna", ""},
	{RoleAll, "DELETE", "/api/history/a", ""},
	{RoleAll, "GET", "/debug/pprof/", ""},
	{RoleAll, "GET", "/debug/pprof/cmdline", ""},
	{RoleAll, "GET", "/debug/pprof/symbol", ""},
}

// whole serves all routes.
func whole(t *testing.T, change func(*Config)) *API {
	h, _ := handler(t, func(cfg *Config) {
		w := new(world)
		cfg.Connections, cfg.Channels, cfg.History, cfg.Fleet, cfg.Pprof = w, w, w, w, true
		cfg.Stats, cfg.Gaps = func() Stats { return Stats{} }, func() []Gap { return nil }
		cfg.Partitions = func() []Partition { return nil }
		cfg.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		change(cfg)
	})
	return h.(*API)
}

func TestTokensMayDoWhatTheirRoleAllows(t *testing.T) {
	h := whole(t, func(cfg *Config) {
		cfg.Tokens = []Token{{RoleAll, "ops", allToken}, {RoleRead, "prometheus", readToken}, {RolePublish, "backend", publishToken}}
	})
	allowed := map[string][]Role{
		allToken: {RoleAll, RoleRead, RolePublish}, readToken: {RoleRead}, publishToken: {RolePublish},
	}
	for token, roles := range allowed {
		for _, e := range everything {
			want := http.StatusForbidden
			for _, role := range roles {
				if role == e.need {
					want = 0
				}
			}
			status := do(h, e.method, e.path, e.body, "Authorization", "Bearer "+token).StatusCode
			if want == 0 {
				require.Less(t, status, 300, "%s %s with %s", e.method, e.path, token)
			} else {
				require.Equal(t, want, status, "%s %s with %s", e.method, e.path, token)
			}
		}
	}
	require.NotZero(t, h.Counts().Denied[DeniedRole])
}

// TestEveryRouteHasAGuard: what is added later must be in the table above.
func TestEveryRouteHasAGuard(t *testing.T) {
	h := whole(t, func(cfg *Config) { cfg.Tokens = oneToken(allToken) })
	for _, e := range everything {
		require.Equal(t, 401, do(h, e.method, e.path, e.body).StatusCode, e.path)
	}
	source, err := os.ReadFile("api.go")
	require.NoError(t, err)
	routes := strings.Count(string(source), `("GET /`) + strings.Count(string(source), `("POST /`) + strings.Count(string(source), `("DELETE /`)
	// /health, /ready and /openapi.yaml have none; two profiles take too long for the table.
	require.Equal(t, routes, len(everything)+3+2)
}

// TestAnswersAreForTheOwnOriginAlone: those with an error, too.
func TestAnswersAreForTheOwnOriginAlone(t *testing.T) {
	f := func(h http.Handler, method, path, body string, fields ...string) {
		t.Helper()
		header := do(h, method, path, body, fields...).Header
		require.Equal(t, []string{"nosniff"}, header.Values("X-Content-Type-Options"), path)
		require.Equal(t, []string{"same-origin"}, header.Values("Cross-Origin-Resource-Policy"), path)
		require.Empty(t, header.Values("Access-Control-Allow-Origin"), path)
	}
	h := whole(t, func(cfg *Config) { cfg.Tokens = oneToken(allToken) })
	for _, e := range everything {
		f(h, e.method, e.path, e.body, "Authorization", "Bearer "+allToken, "Origin", "http://127.0.0.1:9090")
		f(h, e.method, e.path, e.body)
	}
	for _, path := range []string{"/health", "/ready", "/openapi.yaml", "/nowhere", "//api/stats"} {
		f(h, "GET", path, "", "Authorization", "Bearer "+allToken)
	}
	f(NewPublisher(PublisherConfig{}), "GET", "/health", "")
	f(NewPublisher(PublisherConfig{}), "GET", "/metrics", "")
}

// TestPagesOfAnotherHostCannotRead: DNS rebinding. To the browser the page is of the same
// origin, so it sends nothing by which to tell but the name.
func TestPagesOfAnotherHostCannotRead(t *testing.T) {
	h := whole(t, func(cfg *Config) {
		cfg.Host = "admin.corp"
		cfg.Ready = func() (bool, string) { return false, "redis: dial tcp 10.0.0.5:6379" }
	})
	for _, e := range everything {
		if e.method == http.MethodPost {
			continue // by Origin: see TestForeignPagesCannotPublish
		}
		require.Equal(t, 403, do(h, e.method, e.path, e.body, "Host", "evil.example:9090").StatusCode, e.path)
		for _, host := range []string{"127.0.0.1:9090", "[::1]:9090", "localhost:9090", "localhost", "admin.corp:9090"} {
			require.Less(t, do(h, e.method, e.path, e.body, "Host", host).StatusCode, 300, "%s by %s", e.path, host)
		}
	}
	require.NotZero(t, h.Counts().Denied[DeniedHost])
	require.Equal(t, 200, do(h, "GET", "/health", "", "Host", "evil.example").StatusCode, "probes come by any name")
	require.NotContains(t, bodyOf(t, do(h, "GET", "/ready", "", "Host", "evil.example")), "10.0.0.5")
	require.Contains(t, bodyOf(t, do(h, "GET", "/ready", "")), "10.0.0.5")
}

func TestTokenFileHasALineForEach(t *testing.T) {
	f := func(text string, want ...Token) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "tokens")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		tokens, err := ReadTokens(path)
		if want == nil {
			require.Error(t, err)
			require.NotContains(t, err.Error(), "s3cret")
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, tokens)
	}
	f("0123456789abcdef", Token{RoleAll, "all", "0123456789abcdef"})
	f("# two\n\n  read 0123456789abcdef  \r\npublish fedcba9876543210 back.end\n",
		Token{RoleRead, "read", "0123456789abcdef"}, Token{RolePublish, "back.end", "fedcba9876543210"})
	f("")
	f("# nothing\n")
	f("s3cret")
	f("HIDDEN")
	f("write s3cret-0123456789abcdef")
	f("s3cret-0123456789abcdef backend")
	f("all s3cret-0123456789abcdef a b")
	f("all s3cret-0123456789\u00e9bcdef")
	f("all s3cret-0123456789abcdef " + strings.Repeat("x", maxTokenName+1))
	f(strings.Repeat("0123456789abcdef\n", maxTokens+1))
	f(strings.Repeat("#", maxTokenFile+1) + "\n0123456789abcdef\n")
}

func TestTokenFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write := func(text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write(allToken)
	tokens, err := ReadTokens(path)
	require.NoError(t, err)
	var log bytes.Buffer
	h := whole(t, func(cfg *Config) {
		cfg.Tokens, cfg.TokenFile, cfg.Logger = tokens, path, slog.New(slog.NewTextHandler(&log, nil))
	})
	status := func(token string) int {
		return do(h, "GET", "/api/stats", "", "Authorization", "Bearer "+token).StatusCode
	}
	require.Equal(t, 200, status(allToken))
	require.Equal(t, 401, status(readToken))
	require.NotContains(t, log.String(), "read again")

	// Both while clients change over, then the new one alone.
	write("all " + allToken + "\nread " + readToken)
	require.Equal(t, 200, status(allToken))
	require.Equal(t, 200, status(readToken))
	write("read " + readToken)
	require.Equal(t, 401, status(allToken))
	require.Equal(t, 200, status(readToken))
	require.Equal(t, 2, strings.Count(log.String(), "read again\" tokens="))

	// A file that is wrong changes nothing: it may be half written.
	for _, text := range []string{"", "short", "read"} {
		write(text)
		require.Equal(t, 200, status(readToken))
	}
	require.NoError(t, os.Remove(path))
	require.Equal(t, 200, status(readToken))
	require.Equal(t, 1, strings.Count(log.String(), "cannot be read: the tokens"))

	// A secret of Kubernetes is changed by a rename, and can keep size and time.
	other := path + "-new"
	require.NoError(t, os.WriteFile(other, []byte("read "+strings.ToUpper(readToken)), 0o600))
	past := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(other, past, past))
	require.NoError(t, os.Rename(other, path))
	require.Equal(t, 401, status(readToken))
	require.Equal(t, 200, status(strings.ToUpper(readToken)))
	require.NotContains(t, log.String(), "0123456789abcdef")
}

// TestWhatGoesOnForLongEndsWithItsToken: who was given a stream or a profile keeps it no
// longer than the token is good for it.
func TestWhatGoesOnForLongEndsWithItsToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens")
	write := func(text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write("all " + allToken + "\nread " + readToken)
	tokens, err := ReadTokens(path)
	require.NoError(t, err)
	h := whole(t, func(cfg *Config) { cfg.Tokens, cfg.TokenFile = tokens, path })
	s := httptest.NewServer(h)
	t.Cleanup(func() { h.Close(); s.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	open := func(token, path string) *bufio.Reader {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := s.Client().Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		require.Equal(t, http.StatusOK, resp.StatusCode)
		return bufio.NewReader(resp.Body)
	}
	withdrawn, kept, trace := open(readToken, "/api/live"), open(allToken, "/api/live"), open(allToken, "/debug/pprof/trace?seconds=3600")
	wantEnd := func(r *bufio.Reader) {
		t.Helper()
		_, err := io.Copy(io.Discard, r)
		require.NoError(t, err)
	}
	goesOn := func(r *bufio.Reader) {
		t.Helper()
		for range 3 {
			event(t, r)
		}
	}
	write("all " + allToken)
	wantEnd(withdrawn)
	goesOn(kept)
	write("read " + allToken) // what it is for has changed
	wantEnd(trace)
	goesOn(kept)
	write("publish " + allToken)
	wantEnd(kept)
	require.Eventually(t, func() bool { return len(h.liveSeats) == 0 }, 20*time.Second, 5*time.Millisecond, "places are given back")
}

func TestFailedTriesAreCountedAndLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	h := whole(t, func(cfg *Config) {
		cfg.Tokens, cfg.Logger = oneToken(allToken), slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 300 {
		require.Equal(t, 401, do(h, "GET", "/api/stats", "", "Authorization", "Bearer s3cret-0123456789abcdef").StatusCode)
	}
	require.Equal(t, 401, do(h, "GET", "/api/stats", "").StatusCode)
	require.Equal(t, uint64(300), h.Counts().Denied[DeniedToken])
	require.Equal(t, uint64(1), h.Counts().Denied[DeniedMissing])
	require.Contains(t, log.String(), "reason=token client=192.0.2.1:1234")
	require.LessOrEqual(t, strings.Count(log.String(), "\n"), 5, "one in ten seconds")
	require.NotContains(t, log.String(), "s3cret")
}

func TestAuditTellsWhoChangedWhat(t *testing.T) {
	var log bytes.Buffer
	h := whole(t, func(cfg *Config) {
		cfg.Tokens = []Token{{RoleAll, "ops", allToken}, {RolePublish, "backend", publishToken}}
		cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.Audit = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	f := func(token, method, target, body, want string) {
		t.Helper()
		log.Reset()
		do(h, method, target, body, "Authorization", "Bearer "+token)
		require.Contains(t, log.String(), want)
		require.Equal(t, 1, strings.Count(log.String(), "\n"))
	}
	f(allToken, "DELETE", "/api/history/a%2Fb%0Anext", "", `level=INFO msg="admin: audit" method=DELETE target=/api/history/a%2Fb%0Anext status=204 by=ops client=192.0.2.1:1234`)
	f(allToken, "DELETE", "/api/connections/0-7", "", "target=/api/connections/0-7 status=204 by=ops")
	f(allToken, "DELETE", "/api/connections/0-8?why=%0A%E2%80%AE", "", `target="/api/connections/0-8?why=%0A%E2%80%AE" status=404`)
	// Nothing that is closed or deleted is left out or cut off.
	f(allToken, "DELETE", "/api/connections?sub=anna;for=1h", "", `target="/api/connections?sub=anna%3Bfor%3D1h" status=200`)
	long := strings.Repeat("%C3%A9", 127)
	f(allToken, "DELETE", "/api/connections?channel="+long+"&token="+long+"&%73ub="+long, "", `channel=`+long+`&token=`+long+`&sub=`+long+`" status=200`)
	f(allToken, "DELETE", "/api/history/"+long, "", "target=/api/history/"+long+" status=204")
	f(allToken, "DELETE", "/api/connections?for="+strings.Repeat("0", maxTimeText)+"1h&sub=anna", "", "status=400")
	f(allToken, "DELETE", "/api/connections?for=1h&for=2h&sub=anna", "", "status=400")
	f(allToken, "DELETE", "/api/history/a?"+strings.Repeat("%E2", maxTarget), "", "…")
	f(publishToken, "POST", "/publish?channel_id=a", "x", `level=DEBUG msg="admin: audit" method=POST target="/publish?channel_id=a" status=200 by=backend`)
	log.Reset()
	do(h, "GET", "/api/history/a", "", "Authorization", "Bearer "+allToken)
	do(h, "DELETE", "/api/history/a", "", "Authorization", "Bearer "+publishToken)
	require.Empty(t, log.String(), "nothing is changed")
}
