//go:build e2e

package e2e

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

const sessionSecret = "what the example services sign with"

// sessionCookie is a session of the example services.
func sessionCookie(user string, end time.Time) string {
	text := fmt.Sprintf("%s|%d", user, end.Unix())
	mac := hmac.New(sha256.New, []byte(sessionSecret))
	mac.Write([]byte(text))
	return "session=" + url.PathEscape(text+"|"+hex.EncodeToString(mac.Sum(nil)))
}

// statusOf sends a request for a stream, line by line as given, and returns the status.
func statusOf(t testing.TB, host, target string, lines ...string) int {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	head := append([]string{"GET " + target + " HTTP/1.1", "Host: " + host}, lines...)
	_, err = conn.Write([]byte(strings.Join(head, "\r\n") + "\r\n\r\n"))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return resp.StatusCode // the body may be a stream: to close it is to wait for its end
}

// awaitService waits until a service answers.
func awaitService(t testing.TB, host, path string) {
	t.Helper()
	eventually(t, "an answer of the service", func() bool {
		req, err := http.NewRequest(http.MethodGet, "http://"+host+path, nil)
		require.NoError(t, err)
		req.Header.Set("X-SSE-Channels", "x")
		resp, err := httpClient.Do(req)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
}

// startLighttpd runs programs as CGI from a directory.
func startLighttpd(t testing.TB, dir string) (host string) {
	t.Helper()
	version := versionOf(t, "lighttpd", "-v")
	tested.add("lighttpd", strings.TrimPrefix(strings.Fields(version)[0], "lighttpd/"))
	host = freeHost(t)
	_, port, _ := net.SplitHostPort(host)
	file := filepath.Join(t.TempDir(), "lighttpd.conf")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`
server.modules = ("mod_cgi", "mod_setenv")
server.document-root = %q
server.bind = "127.0.0.1"
server.port = %s
setenv.set-environment = ("SESSION_SECRET" => %q, "REDIRECT_STATUS" => "200")
cgi.assign = (".cgi" => "", ".php" => "/usr/bin/php-cgi")
`, dir, port, sessionSecret)), 0o600))
	spawn(t, nil, "lighttpd", "-D", "-f", file)
	return host
}

// cgiService admits to the channel "allowed" alone, as it finds it in the variable.
const cgiService = `#!/bin/sh
if [ "$HTTP_X_SSE_CHANNELS" = allowed ]; then status=204; else status=403; fi
printf 'Status: %s\r\n\r\n' "$status"
`

// phpService is the same, by the SAPI that php-fpm has.
const phpService = `<?php http_response_code($_SERVER['HTTP_X_SSE_CHANNELS'] === 'allowed' ? 204 : 403);`

// A CGI program has one variable for all fields whose names differ in other octets than
// letters and digits. A client cannot use that to answer for ssed.
func TestClientsDoNotOverwriteWhatCGIServicesAreTold(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "auth.cgi"), []byte(cgiService), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "auth.php"), []byte(phpService), 0o644))
	tested.add("php-cgi", strings.Fields(versionOf(t, "php-cgi", "-v"))[1])
	host := startLighttpd(t, dir)
	for _, service := range []string{"/auth.cgi", "/auth.php"} {
		awaitService(t, host, service)
		// The server folds names, or this would show nothing.
		require.Equal(t, 204, statusOf(t, host, service, "X~SSE~Channels: allowed"))
		require.Equal(t, 204, statusOf(t, host, service, "X-SSE-Channels: secret", "X.Sse.Channels: allowed"))

		in := start(t, "--auth-url", "http://"+host+service, "--auth-cache-ttl", "0")
		in.waitReady()
		require.Equal(t, 200, statusOf(t, in.public, "/sse/connect?channel_id=allowed"))
		for _, octet := range "-!#$%&'*+.^_`|~" {
			for _, name := range []string{"X-SSE-Channels", "x-sse-channels", "X-Sse_Channels"} {
				line := strings.ReplaceAll(name, "-", string(octet)) + ": allowed"
				require.Equal(t, 403, statusOf(t, in.public, "/sse/connect?channel_id=secret", line), "%s: %s", service, line)
			}
		}
		// The last value, or an escaped name, says something else than the first.
		for _, query := range []string{
			"channel_id=secret&channel_id=allowed", "channel%5Fid=allowed&channel_id=secret",
			"channel_id=secret&channel.id=allowed", "channel_id=allowed&channel_id=secret",
		} {
			require.Equal(t, 403, statusOf(t, in.public, "/sse/connect?"+query), "%s: %s", service, query)
		}
	}
}

// exampleServices are those that the project ships.
func exampleServices(t *testing.T) map[string]string {
	t.Setenv("SESSION_SECRET", sessionSecret)
	const dir = "../../deploy/auth/"
	services := make(map[string]string)
	python, node, php := freeHost(t), freeHost(t), freeHost(t)
	spawn(t, nil, "python3", dir+"auth.py", python)
	services["Python"] = "http://" + python + "/"
	spawn(t, nil, "node", dir+"auth.mjs", node)
	services["Node"] = "http://" + node + "/"
	spawn(t, nil, "php", "-S", php, dir+"auth.php")
	services["PHP, its own server"] = "http://" + php + "/auth.php"

	files := t.TempDir()
	text, err := os.ReadFile(dir + "auth.php")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(files, "auth.php"), text, 0o644))
	services["PHP, CGI below lighttpd"] = "http://" + startLighttpd(t, files) + "/auth.php"
	return services
}

func TestExampleServicesDecide(t *testing.T) {
	for name, service := range exampleServices(t) {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(service)
			require.NoError(t, err)
			awaitService(t, u.Host, u.Path)
			in := start(t, "--auth-url", service, "--auth-require-exp")
			in.waitReady()
			soon := time.Now().Add(time.Hour)
			anna, umlaut := "Cookie: "+sessionCookie("anna", soon), "Cookie: "+sessionCookie("Jörg, 100%", soon)
			f := func(want int, query string, lines ...string) {
				t.Helper()
				require.Equal(t, want, statusOf(t, in.public, "/sse/connect?"+query, lines...), "%s %q", query, lines)
			}
			f(200, "channel_id=news:sport", anna)
			f(200, "channel_id=user:anna&channel_id=news:sport", anna)
			f(200, "channel_id="+url.QueryEscape("user:Jörg, 100%"), umlaut)
			f(200, "channel_id="+url.QueryEscape("news:a,user:bert"), anna) // one name with a comma
			f(403, "channel_id=user:bert", anna)
			f(403, "channel_id=news:sport&channel_id=user:bert", anna)
			f(403, "channel_id=user:bert", anna, "X-SSE-Channels: news:a", "X_SSE_Channels: news:a")
			f(403, "channel_id=user:bert&channel%5Fid=news:a", anna)
			f(401, "channel_id=news:sport")
			f(401, "channel_id=news:sport", "Cookie: session=anna")
			f(401, "channel_id=news:sport", "Cookie: session=anna%7C99999999999%7C00")
			f(401, "channel_id=news:sport", "Cookie: "+sessionCookie("anna", time.Now().Add(-time.Minute)))
			f(401, "channel_id=news:sport", strings.Replace(anna, "anna", "bert", 1))
		})
	}
}

// TestNamesOfChannelsAreEscapedInGlobs runs the helpers of docs/AUTH.md: a user gets the channel of
// that name and no other, whatever the name is.
func TestNamesOfChannelsAreEscapedInGlobs(t *testing.T) {
	names := []string{"anna", "*", "?", "a*", "[a-z]", "[^a]", `\`, `\*`, `a\`, "]", "^", "a-z", "Jörg", "$&"}
	text, err := os.ReadFile("../../docs/AUTH.md")
	require.NoError(t, err)
	helper := func(language string) string {
		_, rest, found := strings.Cut(string(text), "```"+language+"\n")
		require.True(t, found, language)
		code, _, _ := strings.Cut(rest, "```")
		return code
	}
	for language, run := range map[string]func(code string) []string{
		"python": func(code string) []string {
			return []string{"python3", "-c", "import json, sys\nuser = sys.argv[1]\n" + code + "print(json.dumps(claims['channels']))"}
		},
		"js": func(code string) []string {
			return []string{"node", "-e", "const user = process.argv[1];\n" + code + "console.log(JSON.stringify(claims.channels))", "--"}
		},
		"php": func(code string) []string {
			return []string{"php", "-r", "$user = $argv[1];\n" + code + "echo json_encode($claims['channels']);", "--"}
		},
	} {
		command := run(helper(language))
		for _, name := range names {
			out, err := exec.Command(command[0], append(command[1:], name)...).Output()
			require.NoError(t, err, language)
			var globs []string
			require.NoError(t, json.Unmarshal(out, &globs), "%s: %s", language, out)
			for _, other := range names {
				require.Equal(t, other == name, sseproto.MatchGlob(globs[0], "user:"+other), "%s: %q covers %q", language, globs[0], other)
			}
		}
	}
}
