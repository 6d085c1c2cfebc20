package engine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// requestVector is one case of the request vectors; their README tells what the
// members mean.
type requestVector struct {
	ID      string
	Level   string
	Send    []any
	Accept  []string
	Checks  []string
	Head    bool
	Channel string
}

func loadRequestVectors(t testing.TB) []requestVector {
	t.Helper()
	raw, err := os.ReadFile("../sseproto/testdata/http_requests.json")
	require.NoError(t, err)
	var file struct{ Cases []requestVector }
	require.NoError(t, json.Unmarshal(raw, &file))
	require.NotEmpty(t, file.Cases)
	return file.Cases
}

// TestRequestVectors runs all cases over real sockets, each in the pieces that it
// names and byte by byte. Cases of all levels have to pass.
func TestRequestVectors(t *testing.T) {
	s := serveEngine(t, Config{HandshakeTimeout: time.Minute})
	s.Log().OpenLocal()
	for _, c := range loadRequestVectors(t) {
		for _, bytewise := range []bool{false, true} {
			name := c.ID + "/pieces"
			if bytewise {
				name = c.ID + "/bytes"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				x := startExchange(t, s, c.Head)
				x.play(c.Send, bytewise)
				x.channel = c.Channel
				x.settle(c.Accept)
				require.True(t, x.matchesAny(c.Accept), "%s (%s): saw %v, closed %v, want one of %v\n%s",
					c.ID, c.Level, x.outcomes(), x.closedFirst, c.Accept, x.sample())
				for _, check := range c.Checks {
					x.check(check)
				}
			})
		}
	}
}

// exchange is what happens on one connection.
type exchange struct {
	t       *testing.T
	s       *served
	conn    *net.TCPConn
	head    bool   // the answers have no bodies
	channel string // what a stream is subscribed to, where the case tells
	arrived chan *seenAnswer
	events  chan string   // data of the events of a stream
	all     *bytes.Buffer // everything received; read it after the end

	seen        []*seenAnswer
	ended       bool
	closedFirst bool // the server closed while our side was open
	finished    bool // our side is closed
}

type seenAnswer struct {
	outcome string // status, or "stream"
	resp    *http.Response
	body    string
}

func startExchange(t *testing.T, s *served, head bool) *exchange {
	conn, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(waitLong)))
	x := &exchange{
		t: t, s: s, conn: conn.(*net.TCPConn), head: head,
		arrived: make(chan *seenAnswer, 16), events: make(chan string, 16), all: new(bytes.Buffer),
	}
	go x.receive()
	return x
}

// receive reads answers until the end and tells of each.
func (x *exchange) receive() {
	defer close(x.arrived)
	defer close(x.events)
	r := bufio.NewReader(io.TeeReader(x.conn, x.all))
	method := http.MethodGet
	if x.head {
		method = http.MethodHead
	}
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return
		}
		a := &seenAnswer{outcome: strconv.Itoa(resp.StatusCode), resp: resp}
		if resp.StatusCode == 200 && resp.Header.Get("Content-Type") == "text/event-stream; charset=utf-8" {
			a.outcome = "stream"
			x.arrived <- a
			for lines := bufio.NewScanner(r); lines.Scan(); {
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
					x.events <- data
				}
			}
			return
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			a.outcome = "broken"
		}
		a.body = string(body)
		x.arrived <- a
	}
}

// play sends the steps. The server may close at any of them.
func (x *exchange) play(steps []any, bytewise bool) {
	for _, step := range steps {
		switch step := step.(type) {
		case string:
			x.write(expandVector(x.t, step), bytewise)
		case map[string]any:
			switch {
			case step["bytewise"] != nil:
				x.write(expandVector(x.t, step["bytewise"].(string)), true)
			case step["after"] != nil:
				x.await(int(step["after"].(float64)))
			case step["fin"] == true:
				x.finish()
			case step["ms"] != nil:
				x.awaitRead() // what follows is another segment, however busy the server is
			default:
				x.t.Fatalf("unknown step %v", step)
			}
		}
	}
}

// bytewiseMax is how much of a long text is sent byte by byte: a head is refused
// long before.
const bytewiseMax = 20_000

func (x *exchange) write(data []byte, bytewise bool) {
	if bytewise {
		n := min(len(data), bytewiseMax)
		for i := range n {
			if _, err := x.conn.Write(data[i : i+1]); err != nil {
				return
			}
		}
		data = data[n:]
	}
	_, _ = x.conn.Write(data)
}

// awaitRead waits until the server has taken all bytes from its socket, or closed it.
func (x *exchange) awaitRead() {
	hex := func(a net.Addr) string {
		at := a.(*net.TCPAddr).AddrPort()
		b := at.Addr().As4()
		return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(b[:]), at.Port())
	}
	ends := []byte(" " + hex(x.conn.RemoteAddr()) + " " + hex(x.conn.LocalAddr()) + " ")
	require.Eventually(x.t, func() bool {
		tcpTable.Lock()
		defer tcpTable.Unlock()
		require.NoError(x.t, tcpTable.read())
		_, row, found := bytes.Cut(tcpTable.text.Bytes(), ends)
		// The state, then what waits in the socket: sending:receiving.
		return !found || bytes.HasPrefix(row[2:], []byte(" 00000000:00000000 "))
	}, waitLong, pollEvery)
}

// tcpTable is /proc/net/tcp. Other tests leave thousands of connections in it, so its memory is
// used again.
var tcpTable socketTable

type socketTable struct {
	sync.Mutex
	text bytes.Buffer
}

func (s *socketTable) read() error {
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return err
	}
	defer file.Close()
	s.text.Reset()
	_, err = s.text.ReadFrom(file)
	return err
}

var vectorRepeat = regexp.MustCompile(`(?s)<<(\d+)\*(.*?)>>`)

// expandVector gives the bytes of a text: repeats written out, one byte for each
// character.
func expandVector(t *testing.T, text string) []byte {
	text = vectorRepeat.ReplaceAllStringFunc(text, func(m string) string {
		part := vectorRepeat.FindStringSubmatch(m)
		n, err := strconv.Atoi(part[1])
		require.NoError(t, err)
		return strings.Repeat(part[2], n)
	})
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 255 {
			t.Fatalf("%U is not one byte", r)
		}
		out = append(out, byte(r))
	}
	return out
}

// await waits for the n-th answer, or the end.
func (x *exchange) await(n int) {
	for len(x.seen) < n && !x.ended {
		a, ok := <-x.arrived
		x.note(a, ok)
	}
}

func (x *exchange) note(a *seenAnswer, ok bool) {
	if !ok {
		x.ended = true
		x.closedFirst = !x.finished
		return
	}
	x.seen = append(x.seen, a)
}

func (x *exchange) finish() {
	_ = x.conn.CloseWrite()
	x.finished = true
}

// waitQuiet is how long a connection is watched that shall stay open without a byte.
const waitQuiet = 150 * time.Millisecond

// settle waits until the outcome is certain: the server closed, or it has answered
// as it may and, once our side is closed, says nothing more.
func (x *exchange) settle(accept []string) {
	var quiet <-chan time.Time // never, unless that is an outcome
	if slices.Contains(accept, "wait") {
		quiet = time.After(waitQuiet)
	}
	for isQuiet := false; !isQuiet && !x.ended && !x.mayStayOpen(accept); {
		select {
		case a, ok := <-x.arrived:
			x.note(a, ok)
		case <-quiet:
			isQuiet = true
		}
	}
	if !x.ended {
		x.requireChannel()
		x.finish()
	}
	for !x.ended {
		a, ok := <-x.arrived
		x.note(a, ok)
	}
}

// requireChannel shows by a message that the stream has the channel of the case.
func (x *exchange) requireChannel() {
	if x.channel == "" || x.outcomes()[0] != "stream" {
		return
	}
	want := x.t.Name()
	x.s.Log().Publish(x.channel, sseproto.Message{Data: want})
	for data := range x.events {
		if data == want {
			return
		}
	}
	x.t.Errorf("nothing came from the channel %q", x.channel)
}

// mayStayOpen tells whether what was seen is a whole outcome of an open connection.
func (x *exchange) mayStayOpen(accept []string) bool {
	return slices.ContainsFunc(accept, func(want string) bool {
		return len(x.seen) > 0 && !strings.HasSuffix(want, "!") && x.matches(want)
	})
}

func (x *exchange) matchesAny(accept []string) bool { return slices.ContainsFunc(accept, x.matches) }

func (x *exchange) matches(want string) bool {
	switch want {
	case "close":
		return len(x.seen) == 0 && x.ended
	case "wait":
		return len(x.seen) == 0 && !x.closedFirst
	}
	want, closed := strings.CutSuffix(want, "!")
	wanted := strings.Split(want, "+")
	if closed && !x.closedFirst || len(wanted) != len(x.seen) {
		return false
	}
	for i, outcome := range x.outcomes() {
		if wanted[i] != outcome && !(strings.HasSuffix(wanted[i], "xx") && wanted[i][0] == outcome[0] && outcome != "stream") {
			return false
		}
	}
	return true
}

func (x *exchange) outcomes() []string {
	var all []string
	for _, a := range x.seen {
		all = append(all, a.outcome)
	}
	return all
}

func (x *exchange) sample() string { return string(x.all.Bytes()[:min(x.all.Len(), 2000)]) }

func (x *exchange) check(name string) {
	t := x.t
	t.Helper()
	var header http.Header
	if len(x.seen) > 0 {
		header = x.seen[0].resp.Header
	}
	name, argument, _ := strings.Cut(name, ":")
	switch name {
	case "sse-headers":
		require.Contains(t, header.Get("Content-Type"), "text/event-stream")
		require.Contains(t, header.Get("Cache-Control"), "no-cache")
	case "no-body":
		require.True(t, bytes.HasSuffix(x.all.Bytes(), []byte("\r\n\r\n")))
	case "framed":
		require.NotEqual(t, int64(-1), x.seen[0].resp.ContentLength)
	case "no-te":
		require.Empty(t, x.seen[0].resp.TransferEncoding)
	case "allow":
		if x.seen[0].outcome == "405" {
			require.NotEmpty(t, header.Get("Allow"))
		}
	case "cors-preflight":
		require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"))
		require.Contains(t, strings.ToLower(header.Get("Access-Control-Allow-Headers")), "last-event-id")
	case "closed-if-200":
		if x.seen[0].outcome == "200" {
			require.True(t, x.closedFirst)
		}
	case "no-header":
		for _, a := range x.seen {
			require.Empty(t, a.resp.Header.Values(argument))
		}
	case "no-echo":
		require.NotContains(t, x.all.String(), argument)
	default:
		t.Fatalf("unknown check %q", name)
	}
}
