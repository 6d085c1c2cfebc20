//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// documentedPrograms are the programs under a heading of docs/PUBLISHING.md, by language.
func documentedPrograms(t *testing.T, heading string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/PUBLISHING.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	programs := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)\n```([a-z]+)\n(.*?)```\n").FindAllStringSubmatch(section, -1) {
		programs[block[1]] = block[2]
	}
	return programs
}

// documentedLanguages says how to run a program of docs/PUBLISHING.md: the name of its
// file, in which folder its imports are found ("": anywhere), and the command.
var documentedLanguages = map[string]struct {
	file, dir string
	needs     string
	run       func(path string) *exec.Cmd
}{
	"python": {"publish.py", "", pythonProgram, func(path string) *exec.Cmd { return exec.Command(pythonProgram, path) }},
	"js":     {"publish.mjs", "clients", "clients/node_modules/ioredis", func(path string) *exec.Cmd { return exec.Command("node", path) }},
	"go":     {"main.go", ".", "go.mod", func(path string) *exec.Cmd { return exec.Command("go", "run", path) }},
	"php":    {"publish.php", "", "", func(path string) *exec.Cmd { return exec.Command("php", path) }},
	"ruby":   {"publish.rb", "", "", func(path string) *exec.Cmd { return exec.Command("ruby", path) }},
	"java": {"Publish.java", "", "../../bin/e2e-java/installed", func(path string) *exec.Cmd {
		return exec.Command("java", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-cp", javaLibraries, path)
	}},
}

// runDocumented runs a program of docs/PUBLISHING.md as it stands, but for the address.
func runDocumented(t *testing.T, language, text, addr string) {
	t.Helper()
	how := documentedLanguages[language]
	if how.needs != "" {
		script(t, how.file, how.needs)
	}
	text = strings.ReplaceAll(text, "127.0.0.1:6379", addr)
	text = strings.ReplaceAll(text, "6379", strings.TrimPrefix(addr, "127.0.0.1:"))
	in := how.dir
	if in == "" {
		in = t.TempDir()
	}
	dir, err := os.MkdirTemp(in, "documented-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path, err := filepath.Abs(filepath.Join(dir, how.file))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	out, err := how.run(path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// shardChannels are those that ssed partition prints.
func shardChannels(t *testing.T, partitions int) (names []string) {
	t.Helper()
	out, err := exec.Command(program, "partition", "--all", "--json", "--partitions", strconv.Itoa(partitions)).Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		var p struct {
			Name string `json:"shard_channel"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &p))
		names = append(names, p.Name)
	}
	require.Len(t, names, partitions)
	return names
}

// TestDocumentedPublishersFindThePartition: each message comes on the shard channel of its
// channel's partition, in a cluster, and to a stream of all of them.
func TestDocumentedPublishersFindThePartition(t *testing.T) {
	const partitions = 3
	c := redistest.StartCluster(t, 3, 0)
	subscriber := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{c.Nodes[0].Addr()}})
	t.Cleanup(func() { _ = subscriber.Close() })
	var got [partitions]<-chan *redis.Message
	names := shardChannels(t, partitions)
	for q, name := range names {
		s := subscriber.SSubscribe(t.Context(), name)
		t.Cleanup(func() { _ = s.Close() })
		_, err := s.Receive(t.Context())
		require.NoError(t, err)
		got[q] = s.Channel()
	}
	in := start(t, "--redis-url", c.URL(), "--feed", "sharded", "--partitions", strconv.Itoa(partitions), "--heartbeat", "1s") // curl ends with the next write
	in.waitReady()
	programs := documentedPrograms(t, "Partitions")
	for _, language := range []string{"python", "js", "php", "ruby", "java", "go"} {
		t.Run(language, func(t *testing.T) {
			require.Contains(t, programs, language)
			var events collector
			l := newLink(t, in.public)
			startCurl(t, streamURL(l.host(), "user123", "channel_id", "user456", "channel_id", "news", "tell", "channel"), events.show)
			l.waitStreams(1)
			runDocumented(t, language, programs[language], c.Nodes[0].Addr())
			var seen [partitions]int
			for _, channel := range []string{"user123", "user456", "news"} {
				q := sseproto.PartitionOf(channel, partitions)
				seen[q]++
				for _, text := range []string{"Hello!", "Grüße"} {
					select {
					case m := <-got[q]:
						require.Equal(t, channel+"\n"+text, m.Payload)
					case <-time.After(patience):
						t.Fatalf("no message for %s on partition %d", channel, q)
					}
				}
			}
			require.Equal(t, [partitions]int{1, 1, 1}, seen, "the example has a channel of each")
			delivered := map[string][]string{} // between partitions there is no order
			for range 2 * partitions {
				e := events.take(t)
				delivered[e.Event] = append(delivered[e.Event], e.Data)
			}
			require.Equal(t, map[string][]string{"user123": {"Hello!", "Grüße"}, "user456": {"Hello!", "Grüße"}, "news": {"Hello!", "Grüße"}}, delivered)
		})
	}
}
