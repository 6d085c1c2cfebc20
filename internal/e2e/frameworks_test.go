//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// framework is an application of docs/FRAMEWORKS.md. It gives the cookie "sse" to who logs
// in, and publishes an event when an order is paid.
type framework struct {
	name    string
	needs   string // a file that make e2e installs
	version []string
	command func(port string) []string // {{built}} in it is where TestFrameworks puts what it builds
}

const streamSecret = "a secret of at least thirty-two bytes"

func packageVersion(name string) []string {
	return []string{"node", "-p", `require("./clients/node_modules/` + name + `/package.json").version`}
}

func pythonVersion(name string) []string {
	return []string{pythonProgram, "-c", "import importlib.metadata as m; print(m.version('" + name + "'))"}
}

var frameworks = []framework{
	{"Django", pythonProgram, pythonVersion("django"), func(port string) []string {
		return []string{pythonProgram, "clients/frameworks/django_app.py", port}
	}},
	{"FastAPI", pythonProgram, pythonVersion("fastapi"), func(port string) []string {
		return []string{pythonProgram, "-m", "uvicorn", "--app-dir", "clients/frameworks", "--log-level", "warning", "--port", port, "fastapi_app:app"}
	}},
	{"Express", "clients/node_modules/express/package.json", packageVersion("express"), func(port string) []string {
		return []string{"env", "PORT=" + port, "node", "clients/frameworks/express.mjs"}
	}},
	{"Go net/http", "", []string{"go", "env", "GOVERSION"}, func(port string) []string {
		return []string{"env", "PORT=" + port, "{{built}}/gohttp"}
	}},
	{"Spring Boot", springLibraries + "/installed", []string{"sh", "-c", `ls ` + springLibraries + ` | sed -n 's/^spring-boot-\([0-9.]*\)\.jar$/\1/p'`}, func(port string) []string {
		return []string{
			"java", "-XX:TieredStopAtLevel=1", "-cp", "{{built}}:" + springLibraries + "/*", "shop.Shop",
			"--server.address=127.0.0.1", "--server.port=" + port, "--spring.main.banner-mode=off", "--spring.data.redis.url=${REDIS_URL}",
		}
	}},
}

const springLibraries = "../../bin/e2e-spring"

// build compiles what is no script, and returns where it is.
func build(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, command := range [][]string{
		{"go", "build", "-o", dir + "/gohttp", "./clients/frameworks/gohttp"},
		{"javac", "-parameters", "-cp", springLibraries + "/*", "-d", dir, "clients/frameworks/spring/shop/Shop.java"},
	} {
		said, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
	return dir
}

// TestFrameworks runs what docs/FRAMEWORKS.md shows: an application that lets its users read
// their channel by a cookie, and publishes an event with a type, an id and data.
func TestFrameworks(t *testing.T) {
	built := build(t)
	r := redistest.Start(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(streamSecret), 0o600))
	in := startReady(t, r, "--envelope", "json", "--auth", "jwt", "--auth-jwt-secret-file", secret, "--auth-cookie", "sse")
	for _, f := range frameworks {
		t.Run(f.name, func(t *testing.T) {
			if f.needs != "" {
				require.FileExists(t, f.needs, "make e2e installs it")
			}
			tested.add(f.name, versionOf(t, f.version...))
			port := strconv.Itoa(freePort(t))
			command := f.command(port)
			for i, word := range command {
				command[i] = strings.ReplaceAll(word, "{{built}}", built)
			}
			command = append([]string{"REDIS_URL=" + r.URL(), "SSED_AUTH_JWT_SECRET=" + streamSecret, "PYTHONDONTWRITEBYTECODE=1"}, command...)
			p := spawn(t, nil, "env", command...)
			app := "http://127.0.0.1:" + port
			var cookie *http.Cookie
			eventually(t, f.name+" to answer", func() bool {
				resp, err := http.Post(app+"/login?user=7", "", nil)
				if err != nil {
					return false
				}
				defer resp.Body.Close()
				require.Less(t, resp.StatusCode, 300, p.logText())
				require.Len(t, resp.Cookies(), 1)
				cookie = resp.Cookies()[0]
				return true
			})
			require.Equal(t, "sse", cookie.Name)
			require.True(t, cookie.HttpOnly)

			header := http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}
			req, err := http.NewRequest(http.MethodGet, streamURL(in.public, "user:8"), nil)
			require.NoError(t, err)
			req.Header = header.Clone()
			refused, err := httpClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, refused.Body.Close())
			require.Equal(t, http.StatusForbidden, refused.StatusCode, "another user's")
			events := openStreamBy(t, httpClient, streamURL(in.public, "user:7"), header)

			paid, err := http.Post(app+"/orders/17/pay?user=7", "", nil)
			require.NoError(t, err)
			require.NoError(t, paid.Body.Close())
			require.Less(t, paid.StatusCode, 300, p.logText())
			e := events.take(t)
			require.Equal(t, "order.paid", e.Event)
			require.Regexp(t, `^\d+-\d+/order-17$`, e.ID)
			require.JSONEq(t, `{"order":17}`, e.Data)
		})
	}
}

// TestLaravelsBroadcasts: the bytes that its broadcaster for Redis sends, made by PHP.
func TestLaravelsBroadcasts(t *testing.T) {
	tested.add("PHP, as Laravel broadcasts", versionOf(t, "php", "-r", "echo PHP_VERSION;"))
	r := redistest.Start(t)
	in := startReady(t, r, "--envelope", "json")
	events := openStream(t, streamURL(in.public, "laravel_database_private-orders.7"))
	send := func(name, data, socket string) string {
		cmd := exec.Command("php", "clients/frameworks/laravel.php", r.Addr(), name, data, socket, "laravel_database_private-orders.7", "laravel_database_other")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", said)
		return string(said)
	}
	payload := send(`App\Events\OrderPaid`, `{"order":{"id":7,"url":"https://x/y","sum":"5 €"},"socket":null}`, "")
	require.Equal(t, `{"event":"App\\Events\\OrderPaid","data":{"order":{"id":7,"url":"https:\/\/x\/y","sum":"5 \u20ac"},"socket":null},"socket":null}`, payload)
	e := events.take(t)
	require.Equal(t, `App\Events\OrderPaid`, e.Event)
	require.Equal(t, `{"order":{"id":7,"url":"https:\/\/x\/y","sum":"5 \u20ac"},"socket":null}`, e.Data, "as it stands in the payload")

	send("order.paid", `[]`, "1234.5678") // broadcastAs, nothing public, toOthers
	e = events.take(t)
	require.Equal(t, "order.paid", e.Event)
	require.Equal(t, `[]`, e.Data)
}

// TestFrameworksShowWhatRuns: docs/FRAMEWORKS.md has the applications as they stand.
func TestFrameworksShowWhatRuns(t *testing.T) {
	places := map[string]string{}
	for name, s := range map[string]shown{
		"Django":  {"clients/frameworks/django_views.py", "", "python"},
		"FastAPI": {"clients/frameworks/fastapi_app.py", "", "python"},
		"Express": {"clients/frameworks/express.mjs", "", "js"},
		"Go":      {"clients/frameworks/gohttp/main.go", "", "go"},
		"Spring":  {"clients/frameworks/spring/shop/Shop.java", "snippet", "java"},
	} {
		places["snippet "+name] = s.block(t)
	}
	require.NoError(t, document("FRAMEWORKS.md", places))
}
