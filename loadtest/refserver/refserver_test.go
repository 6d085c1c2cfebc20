//go:build linux

package refserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"ssed/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// listen opens a stream, in pieces of the request when cut is above 0.
func listen(t *testing.T, template, channel string, cut int) *bufio.Reader {
	u, err := url.Parse(strings.ReplaceAll(template, "{channel}", channel))
	require.NoError(t, err)
	c, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	request := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: x\r\n\r\n"
	for ; cut > 0 && len(request) > cut; request = request[cut:] {
		_, err = io.WriteString(c, request[:cut])
		require.NoError(t, err)
	}
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	r := bufio.NewReader(c)
	status, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200 OK\r\n", status)
	for line := ""; line != "\r\n"; {
		line, err = r.ReadString('\n')
		require.NoError(t, err)
	}
	return r
}

// dataLine returns the next data line.
func dataLine(t *testing.T, r *bufio.Reader) string {
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			return strings.TrimSuffix(data, "\n")
		}
	}
}

func publishLine(t *testing.T, address string) net.Conn {
	c, err := net.Dial("tcp", strings.TrimPrefix(address, "line://"))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestFloorSendsToTheMembersOfAChannel(t *testing.T) {
	f, err := StartFloor(0)
	require.NoError(t, err)
	defer f.Close()
	b := listen(t, f.URL, "b", 7)
	p := publishLine(t, f.PublishURL)
	// Commands are cut anywhere, and several come at once.
	for piece := range strings.SplitSeq("PUB b 3\nx|yzPUB nobody 1\nzPUB b 0\nPUB| b 5\nhello", "|") {
		_, err := io.WriteString(p, piece)
		require.NoError(t, err)
	}
	require.Equal(t, "xyz", dataLine(t, b))
	require.Empty(t, dataLine(t, b))
	require.Equal(t, "hello", dataLine(t, b))
	_, err = io.WriteString(p, "PUB b 1\nno\n")
	require.NoError(t, err)
	require.Equal(t, "n", dataLine(t, b))
	requireCut(t, p) // "o" does not start a command
	q := publishLine(t, f.PublishURL)
	_, err = io.WriteString(q, "PUB b 2\nok")
	require.NoError(t, err)
	require.Equal(t, "ok", dataLine(t, b))
}

// requireCut waits until the other side closes.
func requireCut(t *testing.T, c net.Conn) {
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, c)
	require.False(t, isTimeout(err), "the connection must be closed")
}

func isTimeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}

func TestFloorGoesOnWhenMembersLeave(t *testing.T) {
	f, err := StartFloor(0)
	require.NoError(t, err)
	defer f.Close()
	var stay []*bufio.Reader
	for i := range 30 {
		r := listen(t, f.URL, "c", 0)
		if i%3 == 0 {
			stay = append(stay, r)
		}
	}
	p := publishLine(t, f.PublishURL)
	for n := range 50 {
		_, err := fmt.Fprintf(p, "PUB c 2\n%02d", n)
		require.NoError(t, err)
		if n < 20 { // some leave while messages go out
			c, err := net.Dial("tcp", mustHost(f.URL))
			require.NoError(t, err)
			_, _ = io.WriteString(c, "GET /?channel_id=c HTTP/1.1\r\n\r\n")
			c.Close()
		}
	}
	for _, r := range stay {
		for n := range 50 {
			require.Equal(t, fmt.Sprintf("%02d", n), dataLine(t, r))
		}
	}
}

func TestSilentStreamsGetHeartbeats(t *testing.T) {
	const beat = 80 * time.Millisecond
	f, err := StartFloor(beat)
	require.NoError(t, err)
	defer f.Close()
	n, err := StartNaive(beat)
	require.NoError(t, err)
	defer n.Close()
	for _, url := range []string{f.URL, n.URL} {
		r := listen(t, url, "c", 0)
		for got := 0; got < 3; { // chunk sizes are in between
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			if line == ":\n" {
				got++
			}
		}
	}
}

func TestFloorSendsHeartbeatsAfterSilenceOnly(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	now := time.Now()
	f := &Floor{beat: beatVisits * time.Second, ticked: now, channels: map[string]int32{"c": 0}, members: [][]int32{{int32(pair[0])}}}
	f.slots = make([]slot, pair[0]+1)
	f.slots[pair[0]] = slot{role: roleMember}
	arrived := func() string {
		b := make([]byte, 100)
		n, _ := unix.Read(pair[1], b)
		return string(b[:max(n, 0)])
	}
	silence := func(seconds int) string {
		for range seconds {
			now = now.Add(time.Second)
			f.tick(now)
		}
		return arrived()
	}
	require.Empty(t, silence(beatVisits-1))
	require.Equal(t, heartbeat, silence(1))
	require.Equal(t, heartbeat, silence(beatVisits))
	require.Empty(t, silence(beatVisits-1))
	f.publish("c", []byte("x"))
	require.Contains(t, arrived(), "data: x")
	require.Empty(t, silence(beatVisits-1), "a message puts it off")
	require.Equal(t, heartbeat, silence(1))
	f.tick(now.Add(time.Millisecond))
	require.Empty(t, arrived(), "nothing is due before the next tick")
}

func mustHost(text string) string {
	u, _ := url.Parse(text)
	return u.Host
}

func TestFloorCutsWhatIsNoRequest(t *testing.T) {
	f, err := StartFloor(0)
	require.NoError(t, err)
	defer f.Close()
	send := func(text string) {
		t.Helper()
		c, err := net.Dial("tcp", mustHost(f.URL))
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, text)
		require.NoError(t, err)
		requireCut(t, c)
	}
	send("GET / HTTP/1.1\r\n\r\n")
	send("GET /?channel_id=%zz HTTP/1.1\r\n\r\n")
	send(strings.Repeat("x", maxHeadBytes+1))
}

func TestPublishCommandsAreParsed(t *testing.T) {
	f := func(in, channel, body string, n int, bad bool) {
		t.Helper()
		gotChannel, gotBody, gotN, err := parsePublish([]byte(in))
		require.Equal(t, bad, err != nil, in)
		require.Equal(t, channel, gotChannel)
		require.Equal(t, body, string(gotBody))
		require.Equal(t, n, gotN)
	}
	f("", "", "", 0, false)
	f("PUB a", "", "", 0, false)
	f("PUB a 3\nxy", "", "", 0, false)
	f("PUB a 3\nxyzPUB", "a", "xyz", 11, false)
	f("PUB a 0\n", "a", "", 8, false)
	f("GET a 0\n", "", "", 0, true)
	f("PUB a\n", "", "", 0, true)
	f("PUB a -1\n", "", "", 0, true)
	f("PUB a 99999999\n", "", "", 0, true)
	f(strings.Repeat("P", maxHeadBytes+1), "", "", 0, true)
}

func TestPushesOfRedisAreParsed(t *testing.T) {
	f := func(in, channel, body string, n int, bad bool) {
		t.Helper()
		gotChannel, gotBody, gotN, err := parsePush([]byte(in))
		require.Equal(t, bad, err != nil, in)
		require.Equal(t, channel, gotChannel)
		require.Equal(t, body, string(gotBody))
		require.Equal(t, n, gotN)
	}
	const push = "*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$2\r\nch\r\n$4\r\na\r\nb\r\n"
	for i := range len(push) {
		f(push[:i], "", "", 0, false)
	}
	f(push, "ch", "a\r\nb", len(push), false)
	f(push+"*4", "ch", "a\r\nb", len(push), false)
	const other = "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n"
	f(other+push, "", "", len(other), false)
	f("-ERR no\r\n", "", "", 0, true)
	f("*x\r\n", "", "", 0, true)
	f("*1\r\n$-1\r\n", "", "", 0, true)
	f("*1\r\n$99999999\r\n", "", "", 0, true)
}

func TestFloorSendsWhatIsPublishedOnRedis(t *testing.T) {
	redis := redistest.Start(t)
	f, err := StartFloorOnRedis(0, netip.MustParseAddrPort(redis.Addr()))
	require.NoError(t, err)
	defer f.Close()
	a, b := listen(t, f.URL, "a", 0), listen(t, f.URL, "b", 0)
	long := strings.Repeat("x", floorReadBytes) // more than one read
	for _, m := range [][2]string{{"a", "one"}, {"nobody", "x"}, {"b", "two"}, {"a", long}, {"a", "end"}} {
		_, err := redis.Do("PUBLISH", m[0], m[1])
		require.NoError(t, err)
	}
	require.Equal(t, "one", dataLine(t, a))
	require.Equal(t, "two", dataLine(t, b))
	require.Equal(t, long, dataLine(t, a))
	require.Equal(t, "end", dataLine(t, a))

	redis.Stop()
	_, err = StartFloorOnRedis(0, netip.MustParseAddrPort(redis.Addr()))
	require.ErrorContains(t, err, "refused")
}

func TestNaiveSendsToTheMembersOfAChannel(t *testing.T) {
	n, err := StartNaive(time.Minute)
	require.NoError(t, err)
	defer n.Close()
	a, b := listen(t, n.URL, "a", 0), listen(t, n.URL, "b", 0)
	post := func(channel, body string) int {
		resp, err := http.Post(strings.ReplaceAll(n.PublishURL, "{channel}", channel), "", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, http.StatusNoContent, post("a", "one"))
	require.Equal(t, http.StatusNoContent, post("b", "two"))
	require.Equal(t, http.StatusNoContent, post("a", "three"))
	require.Equal(t, "one", dataLine(t, a))
	require.Equal(t, "three", dataLine(t, a))
	require.Equal(t, "two", dataLine(t, b))
	require.Equal(t, http.StatusRequestEntityTooLarge, post("a", strings.Repeat("x", maxMessageBytes+1)))
	http.DefaultClient.CloseIdleConnections()
}

func TestNaiveCutsTheSlow(t *testing.T) {
	n := &Naive{channels: map[string]map[chan string]struct{}{}}
	queue := n.join("c")
	w := discardResponse{}
	for range naiveQueue + 1 {
		r, err := http.NewRequest(http.MethodPost, "/publish?channel_id=c", strings.NewReader("x"))
		require.NoError(t, err)
		n.publish(w, r)
	}
	got := 0
	for range queue { // ends because the queue was closed
		got++
	}
	require.Equal(t, naiveQueue, got)
	n.leave("c", queue)
}

type discardResponse struct{}

func (discardResponse) Header() http.Header         { return http.Header{} }
func (discardResponse) Write(b []byte) (int, error) { return len(b), nil }
func (discardResponse) WriteHeader(int)             {}
