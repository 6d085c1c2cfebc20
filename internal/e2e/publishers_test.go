//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// publishers send payloads in order and return the version of the program.
var publishers = map[string]func(t testing.TB, r *redistest.Server, channel string, payloads []string) string{
	"redis-cli": redisCLI,
	"npm ioredis": func(t testing.TB, r *redistest.Server, channel string, payloads []string) string {
		path := script(t, "publish.mjs", "clients/node_modules/ioredis")
		return feed(t, payloads, "node", path, "ioredis", r.URL(), channel)
	},
	"npm redis": func(t testing.TB, r *redistest.Server, channel string, payloads []string) string {
		path := script(t, "publish.mjs", "clients/node_modules/redis")
		return feed(t, payloads, "node", path, "redis", r.URL(), channel)
	},
	"Python redis": func(t testing.TB, r *redistest.Server, channel string, payloads []string) string {
		return feed(t, payloads, pythonProgram, script(t, "publish.py", pythonProgram), r.URL(), channel)
	},
	"Go go-redis": goRedis,
}

func redisCLI(t testing.TB, r *redistest.Server, channel string, payloads []string) string {
	for _, p := range payloads {
		// -x: the last argument comes from standard input, byte for byte.
		cmd := exec.Command("redis-cli", "-u", r.URL(), "-x", "PUBLISH", channel)
		cmd.Stdin = strings.NewReader(p)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, "1\n", string(out))
	}
	return strings.Fields(versionOf(t, "redis-cli", "--version"))[1]
}

func goRedis(t testing.TB, r *redistest.Server, channel string, payloads []string) string {
	client := redis.NewClient(&redis.Options{Addr: r.Addr()})
	defer client.Close()
	for _, p := range payloads {
		receivers, err := client.Publish(context.Background(), channel, []byte(p)).Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, receivers)
	}
	return moduleVersion(t, "github.com/redis/go-redis/v9")
}

// feed gives payloads to a helper script.
func feed(t testing.TB, payloads []string, command ...string) (version string) {
	var in strings.Builder
	for _, p := range payloads {
		in.WriteString(base64.StdEncoding.EncodeToString([]byte(p)) + "\n")
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(in.String())
	var errText strings.Builder
	cmd.Stderr = &errText
	out, err := cmd.Output()
	require.NoError(t, err, "%s", errText.String())
	printed := bufio.NewScanner(strings.NewReader(string(out)))
	require.True(t, printed.Scan())
	version = printed.Text()
	for range payloads {
		require.True(t, printed.Scan(), "%s", errText.String())
		require.Equal(t, "1", printed.Text(), "receivers")
	}
	return version
}

// TestPublishers: whatever a backend publishes with, the payload arrives byte for byte
// as far as an event stream can carry it.
func TestPublishers(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r)
	for name, publishAll := range publishers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			channel := "from:" + name + ":ü\x01"
			s := openStream(t, streamURL(in.public, channel))
			tested.add(name, publishAll(t, r, channel, binary))
			s.want(binary...)
		})
	}
}
