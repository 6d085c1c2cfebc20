package admin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// oneToken is what --admin-token gives.
func oneToken(text string) []Token { return []Token{{Role: RoleAll, Name: "all", Text: text}} }

// published is what the last Publish got.
type published struct{ channel, payload string }

func handler(t *testing.T, change func(*Config)) (http.Handler, *published) {
	t.Helper()
	last := new(published)
	cfg := Config{
		Publish: func(_ context.Context, messages []Message) []PublishResult {
			require.Len(t, messages, 1)
			*last = published{messages[0].Channel, messages[0].Data}
			return []PublishResult{{ID: "5-1", Embedded: true}}
		},
		Position:        func() (string, bool) { return "7-0", true },
		MaxMessageBytes: 8,
		Ready:           func() (bool, string) { return true, "" },
		Metrics:         http.NotFoundHandler(),
		Streams:         ":8080",
		Logger:          slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	return New(cfg), last
}

func do(h http.Handler, method, target, body string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:9090"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

func TestPublishTakesStrictChannelsOnly(t *testing.T) {
	h, last := handler(t, nil)
	f := func(query string, want int, channel string) {
		t.Helper()
		*last = published{}
		r := do(h, "POST", "/publish?"+query, "hi")
		require.Equal(t, want, r.StatusCode, query)
		require.Equal(t, channel, last.channel, query)
		require.True(t, json.Valid([]byte(bodyOf(t, r))))
	}
	f("channel_id=a", 200, "a")
	f("channel_id=a+b%2Bc&x=y", 200, "a b+c")
	f("channel_id=%C3%A9*%5B", 200, "é*[")
	f("channel_id="+strings.Repeat("x", 255), 200, strings.Repeat("x", 255))
	f("channel_id="+strings.Repeat("x", 256), 400, "")
	f("", 400, "")
	f("channel_id=", 400, "")
	f("channel_id=a&channel_id=b", 400, "")
	f("channel_id=a&x=%zz", 400, "")
	f("channel_id=%zz", 400, "")
	f("channel_id=%2", 400, "")
	f("channel_id=a%00b", 400, "")
	f("channel_id=__ssed:x", 400, "")
	f("channel_id=%5F_ssed:x", 400, "")
}

func TestPublishTakesAnyBytesUpToTheLimit(t *testing.T) {
	h, last := handler(t, nil)
	f := func(body string, want int) {
		t.Helper()
		*last = published{}
		require.Equal(t, want, do(h, "POST", "/publish?channel_id=a", body).StatusCode)
		if want == 200 {
			require.Equal(t, body, last.payload)
		} else {
			require.Zero(t, *last)
		}
	}
	f("", 200)
	f("\x00\xff\r\n<b>", 200)
	f("12345678", 200)
	f("123456789", 413)
}

func TestOtherMethodsAreRefusedWithAllow(t *testing.T) {
	h, _ := handler(t, nil)
	f := func(method, path string, want int, allow string) {
		t.Helper()
		r := do(h, method, path, "")
		require.Equal(t, want, r.StatusCode)
		require.Equal(t, allow, r.Header.Get("Allow"))
		require.Equal(t, "application/json", r.Header.Get("Content-Type"))
		var answer struct{ Error string }
		require.NoError(t, json.Unmarshal([]byte(bodyOf(t, r)), &answer))
		require.NotEmpty(t, answer.Error)
	}
	f("GET", "/publish?channel_id=a", 405, "POST")
	f("PUT", "/api/history/a", 405, "DELETE, GET, HEAD")
	f("POST", "/api/stats", 405, "GET, HEAD")
	f("GET", "/api/nothing", 404, "")
	f("GET", "/api/history/", 404, "")
	require.Equal(t, 405, do(h, "POST", "/ready", "").StatusCode)
	require.Equal(t, 404, do(h, "GET", "/nothing", "").StatusCode)
	require.Equal(t, 404, do(h, "GET", "/debug/pprof/", "").StatusCode)
}

func TestForeignPagesCannotPublish(t *testing.T) {
	h, last := handler(t, func(cfg *Config) { cfg.Host = "admin.corp" })
	f := func(want int, headers ...string) {
		t.Helper()
		*last = published{}
		r := do(h, "POST", "/publish?channel_id=a", "x", headers...)
		require.Equal(t, want, r.StatusCode, headers)
		require.Equal(t, want == 200, last.channel == "a")
		require.Equal(t, "application/json", r.Header.Get("Content-Type"), headers)
		require.True(t, json.Valid([]byte(bodyOf(t, r))))
	}
	f(200) // not a browser
	f(200, "Host", "ssed.internal:9090")
	f(200, "Origin", "http://127.0.0.1:9090")
	f(200, "Origin", "http://127.0.0.1:9090", "Sec-Fetch-Site", "same-origin")
	f(200, "Host", "[::1]:9090", "Origin", "http://[::1]:9090")
	f(200, "Host", "localhost:9090", "Origin", "http://localhost:9090")
	f(200, "Host", "admin.corp:9090", "Origin", "http://admin.corp:9090")
	f(403, "Origin", "https://evil.example")
	f(403, "Origin", "null")
	f(403, "Origin", "http://127.0.0.1:8080") // another port is another origin
	f(403, "Sec-Fetch-Site", "cross-site")
	f(403, "Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:8080")
	f(403, "Host", "evil.example:9090", "Origin", "http://evil.example:9090") // DNS rebinding
}

// TestPageBehindAProxyCanPublishWithTheToken: the proxy passes the name by which the
// browser came, which ssed does not know. A page elsewhere does not have the token.
func TestPageBehindAProxyCanPublishWithTheToken(t *testing.T) {
	const token = "0123456789abcdef"
	h, last := handler(t, func(cfg *Config) { cfg.Tokens = oneToken(token) })
	f := func(want int, headers ...string) {
		t.Helper()
		*last = published{}
		require.Equal(t, want, do(h, "POST", "/publish?channel_id=a", "x", headers...).StatusCode, headers)
		require.Equal(t, want == 200, last.channel == "a")
	}
	own := []string{"Host", "ssed.example", "Origin", "https://ssed.example", "Sec-Fetch-Site", "same-origin"}
	f(401, own...)
	f(200, append(own, "Authorization", "Bearer "+token)...)
	f(403, "Host", "ssed.example", "Origin", "https://evil.example", "Authorization", "Bearer "+token)
	f(403, "Host", "ssed.example", "Sec-Fetch-Site", "cross-site", "Authorization", "Bearer "+token)
}

func TestReadyTellsTheReason(t *testing.T) {
	ready := true
	h, _ := handler(t, func(cfg *Config) {
		cfg.Ready = func() (bool, string) { return ready, "redis: not reached" }
	})
	require.Equal(t, 200, do(h, "GET", "/ready", "").StatusCode)
	ready = false
	r := do(h, "GET", "/ready", "")
	require.Equal(t, 503, r.StatusCode)
	require.Contains(t, bodyOf(t, r), "redis: not reached")
	require.Equal(t, 200, do(h, "GET", "/health", "").StatusCode)
	require.Equal(t, 200, do(h, "HEAD", "/health", "").StatusCode)
}

func TestPprofIsServedOnlyWhenAsked(t *testing.T) {
	h, _ := handler(t, func(cfg *Config) { cfg.Pprof = true })
	require.Equal(t, 200, do(h, "GET", "/debug/pprof/", "").StatusCode)
	require.Equal(t, 200, do(h, "GET", "/debug/pprof/goroutine?debug=1", "").StatusCode)
}

func TestTokenIsDemandedButOfProbes(t *testing.T) {
	const token = "0123456789abcdef"
	h, last := handler(t, func(cfg *Config) { cfg.Tokens = oneToken(token); cfg.Pprof = true })
	status := func(method, path string, headers ...string) int {
		return do(h, method, path, "hello", headers...).StatusCode
	}
	basic := func(user, password string) string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for _, path := range []string{"/", "/metrics", "/debug/pprof/", "/publish?channel_id=a", "/nowhere", "/ready/", "//ready"} {
		for _, wrong := range []string{"", token, "Bearer", "Bearer ", "Bearer " + token + "x", "Bearer " + token[1:], "Basic " + token, basic(token, ""), basic("x", "y")} {
			require.Equal(t, 401, status(http.MethodGet, path, "Authorization", wrong), "%s with %q", path, wrong)
		}
	}
	require.Equal(t, 401, status(http.MethodPost, "/publish?channel_id=a"))
	require.Zero(t, *last)
	require.Equal(t, []string{`Bearer realm="ssed"`, `Basic realm="ssed", charset="UTF-8"`},
		do(h, http.MethodGet, "/", "").Header.Values("WWW-Authenticate"))
	require.Equal(t, 200, status(http.MethodGet, "/health"))
	require.Equal(t, 200, status(http.MethodGet, "/ready"))
	for _, right := range []string{"Bearer " + token, "bearer " + token, basic("anyone", token), basic("", token)} {
		require.Equal(t, 200, status(http.MethodGet, "/", "Authorization", right), right)
		require.Equal(t, 200, status(http.MethodPost, "/publish?channel_id=a", "Authorization", right), right)
	}
	require.Equal(t, published{"a", "hello"}, *last)
	// A browser that knows the password sends it for pages of other origins too.
	require.Equal(t, 403, status(http.MethodPost, "/publish?channel_id=a", "Authorization", basic("", token), "Sec-Fetch-Site", "cross-site"))
}
