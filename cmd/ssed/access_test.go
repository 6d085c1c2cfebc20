package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

const testSecret = "a secret of at least thirty-two bytes"

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(content+"\n"), 0o600))
	return path
}

func tokenFor(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(testSecret))
	require.NoError(t, err)
	return token
}

// ask requests a stream as a browser would and returns the answer, with the body
// open when it is one.
func (in *instance) ask(query string, fields ...string) *http.Response {
	in.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.public+"/sse/connect?"+query, nil)
	require.NoError(in.t, err)
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := httpClient.Do(req)
	require.NoError(in.t, err)
	in.t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	return resp
}

func TestTokenDecidesAboutChannels(t *testing.T) {
	in := start(t, "--auth", "jwt", "--auth-jwt-secret-file", secretFile(t, testSecret),
		"--auth-cookie", "session", "--channels-deny", "internal:*", "--cors-origins", "https://app.example")
	f := func(status int, query string, fields ...string) *http.Response {
		t.Helper()
		resp := in.ask(query, append(fields, "Origin", "https://app.example")...)
		require.Equal(t, status, resp.StatusCode)
		require.Equal(t, "https://app.example", resp.Header.Get("Access-Control-Allow-Origin"))
		return resp
	}
	token := tokenFor(t, jwt.MapClaims{"channels": []string{"user:42", "news:*"}, "exp": time.Now().Add(time.Hour).Unix()})
	require.Contains(t, f(401, "channel_id=user:42").Header.Get("WWW-Authenticate"), "Bearer")
	f(401, "channel_id=user:42", "Authorization", "Bearer "+token+"x")
	f(401, "channel_id=user:42&token="+token)
	f(403, "channel_id=user:43", "Authorization", "Bearer "+token)
	f(403, "channel_id=internal:1", "Authorization", "Bearer "+token)
	f(200, "channel_id=user:42&channel_id=news:today", "Authorization", "Bearer "+token)
	resp := f(200, "channel_id=user:42", "Cookie", "session="+token)
	in.eventually("two streams", func() bool { return in.metric("ssed_streams") == 2 })
	in.publish("user:42", "hello")
	head := make([]byte, 4<<10)
	for text := ""; !strings.Contains(text, "data: hello"); {
		n, err := resp.Body.Read(head)
		require.NoError(t, err)
		text += string(head[:n])
	}
	require.EqualValues(t, 5, in.metric("ssed_auth_refused_total"))
	require.NotContains(t, in.Log(), token[len(token)-20:])
	require.NotContains(t, in.Log(), testSecret)
}

func TestStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	in := start(t, "--auth", "jwt", "--auth-jwt-secret-file", secretFile(t, testSecret), "--auth-jwt-leeway", "0", "--heartbeat", "1s")
	token := tokenFor(t, jwt.MapClaims{"channels": []string{"a"}, "exp": time.Now().Add(3 * time.Second).Unix()})
	resp := in.ask("channel_id=a", "Authorization", "Bearer "+token)
	require.Equal(t, 200, resp.StatusCode)
	_, err := io.ReadAll(resp.Body)
	require.NoError(t, err, "it ends within the patience of a test")
	in.eventually("counted", func() bool { return in.metric("ssed_streams") == 0 })
}

func TestServiceDecides(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Forwarded-For") != "192.0.2.7":
			http.Error(w, "who is it?", http.StatusTeapot)
		case r.Header.Get("Cookie") != "session=1":
			http.Error(w, "log in", http.StatusUnauthorized)
		default:
			w.Header().Set("X-SSE-Channels", "a")
		}
	}))
	defer service.Close()
	in := start(t, "--auth-url", service.URL+"/check", "--trusted-proxies", "127.0.0.1")
	const field, client = "X-Forwarded-For", "192.0.2.7"
	require.Equal(t, 401, in.ask("channel_id=a", field, client).StatusCode)
	require.Equal(t, 418, in.ask("channel_id=a", field, "192.0.2.8").StatusCode)
	require.Equal(t, 403, in.ask("channel_id=b", field, client, "Cookie", "session=1").StatusCode)
	require.Equal(t, 200, in.ask("channel_id=a", field, client, "Cookie", "session=1").StatusCode)
	in.eventually("a stream", func() bool { return in.metric("ssed_streams") == 1 })

	service.Close()
	resp := in.ask("channel_id=c", field, client)
	require.Equal(t, 200, resp.StatusCode, "a browser would never come back")
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Regexp(t, `^retry: \d+\n$`, string(body))
	require.EqualValues(t, 1, in.metric("ssed_streams"))
}

// TestServicesAreAskedByAProxyOnRequestOnly: what HTTP_PROXY names for other programs would
// see the credentials of all clients, and could give keys of its own.
func TestServicesAreAskedByAProxyOnRequestOnly(t *testing.T) {
	var asked, fetched atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		switch r.Host { // of an absolute target
		case "auth.invalid":
			asked.Add(1)
		case "keys.invalid":
			fetched.Add(1)
		}
	}))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	f := func(want int, proxied int64, flags ...string) {
		t.Helper()
		service := start(t, append([]string{"--auth-url", "http://auth.invalid/"}, flags...)...)
		require.Equal(t, want, service.ask("channel_id=a", "Accept", "*/*").StatusCode)
		require.Equal(t, proxied, asked.Load())
		keys := start(t, append([]string{"--auth", "jwt", "--auth-jwks-url", "http://keys.invalid/"}, flags...)...)
		keys.eventually("an attempt that failed", func() bool { return strings.Contains(keys.Log(), "auth: fetching the key set failed") })
		require.Equal(t, proxied > 0, fetched.Load() > 0)
	}
	f(503, 0)
	f(200, 1, "--auth-proxy-env")
}

func TestClientsBehindProxiesAreLimited(t *testing.T) {
	in := start(t, "--trusted-proxies", "127.0.0.0/8,::1", "--max-connections-per-ip", "2")
	for range 2 {
		require.Equal(t, 200, in.ask("channel_id=a", "X-Forwarded-For", "192.0.2.7").StatusCode)
	}
	require.Equal(t, 429, in.ask("channel_id=a", "X-Forwarded-For", "192.0.2.7", "Accept", "*/*").StatusCode)
	require.Equal(t, 200, in.ask("channel_id=a", "X-Forwarded-For", "192.0.2.8", "Accept", "*/*").StatusCode)
	require.EqualValues(t, 2, in.metric("ssed_client_addresses"))
}

func TestSecretsOfTokensAreNeverShown(t *testing.T) {
	code, stdout, stderr := readFlags(t, []string{"SSED_AUTH_JWT_SECRET=s3cret"}, "--auth=jwt")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "$SSED_AUTH_JWT_SECRET: ")
	require.NotContains(t, stdout+stderr, "s3cret")
	code, _, stderr = readFlags(t, []string{"SSED_AUTH_JWT_SECRET=" + testSecret})
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "needs --auth jwt", "who forgets the mode must not find the door open")
}

func TestAdminListenerDemandsItsToken(t *testing.T) {
	const token = "0123456789abcdef0123"
	in := start(t, "--admin-token-file", secretFile(t, token))
	for path, want := range map[string]int{"/health": 200, "/ready": 200, "/metrics": 401, "/": 401} {
		status, _ := in.get(in.admin + path)
		require.Equal(t, want, status, path)
	}
	post := func(authorization string) int {
		req, err := http.NewRequest(http.MethodPost, in.admin+"/publish?channel_id="+url.QueryEscape("a"), strings.NewReader("x"))
		require.NoError(t, err)
		req.Header.Set("Authorization", authorization)
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 401, post("Bearer "+token+"4"))
	require.Equal(t, 200, post("Bearer "+token))
	require.NotContains(t, in.Log(), token)
}

// TestTokensHaveRolesAndAreChangedWhileItRuns: a backend publishes with its own token,
// which is exchanged without a restart.
func TestTokensHaveRolesAndAreChangedWhileItRuns(t *testing.T) {
	const all, read, before, after = "all-0123456789abcdef", "read-0123456789abcdef", "pub1-0123456789abcdef", "pub2-0123456789abcdef"
	file := writeFile(t, "tokens", "all "+all+" ops\nread "+read+" prometheus\npublish "+before+" backend\n")
	in := start(t, "--admin-token-file", file)
	ask := func(token, method, path string) int {
		req, err := http.NewRequest(method, in.admin+path, strings.NewReader("x"))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, ask(read, "GET", "/metrics"))
	require.Equal(t, 403, ask(read, "POST", "/publish?channel_id=a"))
	require.Equal(t, 403, ask(read, "GET", "/debug/pprof/cmdline"))
	require.Equal(t, 403, ask(before, "GET", "/metrics"))
	require.Equal(t, 200, ask(before, "POST", "/publish?channel_id=a"))
	require.Equal(t, 404, ask(all, "DELETE", "/api/connections/0-1-1"))

	// ssed pub takes the first token of the file that may publish.
	mine := writeFile(t, "mine", "read "+read+"\npublish "+after+"\n")
	code, _, stderr := runProgram(t, nil, "pub", "--admin-url", in.admin, "--admin-token-file", mine, "a", "x")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "401")
	require.NoError(t, os.WriteFile(file, []byte("all "+all+" ops\npublish "+after+" backend\n"), 0o600))
	code, _, stderr = runProgram(t, nil, "pub", "--admin-url", in.admin, "--admin-token-file", mine, "a", "x")
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, 401, ask(before, "POST", "/publish?channel_id=a"))
	require.Contains(t, in.metricsWith(all), `ssed_admin_denied_total{reason="token"} 2`)
	in.logs(`"msg":"admin: audit","method":"DELETE","target":"/api/connections/0-1-1","status":404,"by":"ops"`)
	require.NotContains(t, in.Log(), "0123456789abcdef")
	code, _, stderr = readFlags(t, nil, "pub", "--admin-token-file", writeFile(t, "reader", "read "+read), "a", "x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "no token in it is for publishing")
}

// TestPageOfAnotherHostReadsNothing: DNS rebinding, as a browser would send it.
func TestPageOfAnotherHostReadsNothing(t *testing.T) {
	in := start(t)
	for _, path := range []string{
		"/", "/metrics", "/api/stats", "/api/stats/recent", "/api/gaps", "/api/instances", "/api/partitions", "/api/channels", "/api/channels/a",
		"/api/connections", "/api/history/a", "/api/position", "/api/live", "/debug/pprof/cmdline",
	} {
		req, err := http.NewRequest(http.MethodGet, in.admin+path, nil)
		require.NoError(t, err)
		req.Host = "evil.example:9090"
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 403, resp.StatusCode, path)
	}
}
