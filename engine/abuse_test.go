package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// crowdEnv makes the test binary a crowd of clients: a count, an address and what
// each of them sends. They have a process of their own, since each costs a file.
const crowdEnv = "SSED_TEST_CROWD"

// beCrowd connects as ordered and stays until its input ends; the exit closes all.
func beCrowd(order []string) error {
	n, err := strconv.Atoi(order[0])
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(order[1])
	for i := range n {
		text := order[2]
		if i%2 == 1 {
			text = "" // every other one sends nothing
		}
		// One source address has some 28,000 ports.
		if err := crowdClient([4]byte{127, 0, 1, byte(1 + i/5000)}, at, text); err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func crowdClient(source [4]byte, at netip.AddrPort, text string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|sockCloexec, 0)
	if err != nil {
		return err
	}
	return errors.Join(
		bindWithoutPort(fd),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: source}),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}),
		writeText(fd, text),
	)
}

func writeText(fd int, text string) error {
	if text == "" {
		return nil
	}
	_, err := unix.Write(fd, []byte(text))
	return err
}

// crowd connects n clients, of which every other sends text, until dismiss.
func (s *served) crowd(n int, text string) (dismiss func()) {
	s.t.Helper()
	clients := exec.Command(os.Args[0])
	clients.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", crowdEnv, n, s.addr, text))
	output := new(strings.Builder)
	clients.Stdout, clients.Stderr = output, output
	stdin, err := clients.StdinPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, clients.Start())
	dismiss = sync.OnceFunc(func() {
		_ = stdin.Close()
		require.NoError(s.t, clients.Wait(), output)
	})
	s.t.Cleanup(dismiss)
	return dismiss
}

// probe asks for health n times, each with a connection of its own, and returns the
// times that it took.
func (s *served) probe(n int) []time.Duration {
	s.t.Helper()
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		w := s.dial().Send(getHealth)
		status, _, _ := w.Whole()
		require.Equal(s.t, 200, status)
		require.NoError(s.t, w.Close())
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took
}

// eventuallyLong is eventually for what takes a machine with two cores some seconds.
func eventuallyLong(t testing.TB, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, 10*time.Millisecond, what)
}

// A crowd as large as the limit of open files allows begins a request and does not
// end it, or sends nothing. Others are served, the memory is some kilobytes for each,
// and when the deadline comes all are gone.
func TestTwentyThousandHalfOpenHeads(t *testing.T) {
	const perHandshake = 8 << 10
	n := min(20_000, sock.FileLimit()) - 2*ReservedFiles
	if testing.Short() {
		n = min(2000, n)
	}
	s := serveEngine(t, Config{HandshakeTimeout: 5 * time.Second})
	stream := s.dial().Send(getStream("a"))
	stream.Answer(http.MethodGet)
	s.probe(1) // warm
	files, before := openFiles(t), heapInUse()
	dismiss := s.crowd(n, strings.TrimSuffix(getStream("a", "User-Agent: "+strings.Repeat("x", 400)), "\r\n"))
	// Where this takes longer than the deadline, the first are gone before the last come.
	eventuallyLong(t, func() bool { return s.Stats().Front.Accepted >= uint64(n) }, "all are accepted")
	open, grown := s.Stats().Front.Handshakes, heapInUse()-before
	took := s.probe(200)
	t.Logf("%d half-open handshakes: %d bytes of memory each; of 200 others with a request the median took %v, the slowest %v",
		open, grown/max(open, 1), took[100], took[199])
	require.Less(t, grown, int64(n*perHandshake))

	eventuallyLong(t, func() bool { return s.Stats().Connections == 1 }, "the deadline ends them")
	st := s.Stats().Front
	require.EqualValues(t, n, st.Refused[front.RefuseTimeout])
	t.Logf("%d calls of accept for %d connections", st.Accepts, st.Accepted)
	require.Less(t, st.Accepts, 2*st.Accepted)
	dismiss()
	require.LessOrEqual(t, openFiles(t), files)
	require.EqualValues(t, 1, s.Stats().Streams)
	s.probe(10)
}

// The same crowd meets a lower limit: it fills the server and what is open beyond
// it for refusals, and is refused without being read. What others want of streams is
// refused in their own form, and accept is called once for each.
func TestCrowdAtTheLimitOfConnections(t *testing.T) {
	const limit, over = 500, 1500
	s := serveEngine(t, Config{MaxConnections: limit, HandshakeTimeout: time.Minute})
	before := heapInUse()
	dismiss := s.crowd(limit+front.RefusalSlots+over, "GET /sse")
	eventuallyLong(t, func() bool { return s.Stats().Front.Refused[front.RefuseFull] == over }, "the rest is refused")
	st := s.Stats()
	require.EqualValues(t, limit+front.RefusalSlots, st.Connections)
	const late = 10 // each is left a moment for its request
	for range late {
		w := s.dial()
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
		w.RequireRetry(8*time.Second, 20*time.Second)
		require.NoError(t, w.Close())
	}
	reached := s.Stats().Front
	t.Logf("%d refused, %d calls of accept, %d KiB of memory more", reached.Refused[front.RefuseFull], reached.Accepts, (heapInUse()-before)>>10)
	require.Less(t, reached.Accepts, uint64(2*(limit+front.RefusalSlots+over+late)))
	require.Less(t, heapInUse()-before, int64((limit+front.RefusalSlots)*8<<10))
	dismiss()
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "the crowd is gone")
	s.probe(10)
	require.Equal(t, 200, s.dial().Send(getStream("a")).Answer(http.MethodGet).StatusCode)
}

// Clients that send the smallest requests as fast as they can get an answer to each,
// in memory that does not depend on how many they send; a stream beside them gets
// its messages.
func TestFloodOfTinyRequests(t *testing.T) {
	const clients, block = 4, 500
	blocks := 40
	if testing.Short() {
		blocks = 10
	}
	s := serveEngine(t, Config{})
	s.Log().OpenLocal()
	stream := s.streamOf("a")
	s.probe(1)
	before := heapInUse()
	request := strings.Repeat("GET /health HTTP/1.1\r\nHost:\r\n\r\n", block)
	start := time.Now()
	var running sync.WaitGroup
	for range clients {
		w := s.dial()
		running.Go(func() {
			for range blocks { // a client that does not read at all is cut, see front.RefuseUnread
				if _, err := io.WriteString(w, request); err != nil {
					t.Errorf("send: %v", err)
					return
				}
				for range block {
					if err := readHealth(w.R); err != nil {
						t.Errorf("answer: %v", err)
						return
					}
				}
			}
			_ = w.Close()
		})
	}
	for i := range 100 {
		s.Log().Publish("a", sseproto.Message{Data: fmt.Sprint("m", i)})
		stream.expect(fmt.Sprint("m", i))
	}
	running.Wait()
	st := s.Stats().Front
	t.Logf("%d requests by %d clients in %v, %d KiB of memory more", st.Answered[2], clients, time.Since(start).Round(time.Millisecond), (heapInUse()-before)>>10)
	require.EqualValues(t, clients*blocks*block+1, st.Answered[2])
	require.EqualValues(t, 2+clients, st.Accepted)
	require.Less(t, heapInUse()-before, int64(4<<20))
}

// readHealth reads one answer to getHealth, by its lines: net/http takes longer to read the
// answers of a flood than the server to give them.
func readHealth(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil || !strings.HasPrefix(string(line), "HTTP/1.1 200 ") {
		return fmt.Errorf("status %q: %w", line, err)
	}
	for err == nil && string(line) != "\r\n" {
		line, err = r.ReadSlice('\n')
	}
	if err == nil {
		line, err = r.ReadSlice('\n')
	}
	if err != nil || string(line) != "ok\n" {
		return fmt.Errorf("body %q: %w", line, err)
	}
	return nil
}

// A client that pipelines faster than it is answered, and reads all answers, is cut
// before much of it is in memory.
func TestRequestsFasterThanAnswersAreCut(t *testing.T) {
	s := serveEngine(t, Config{})
	s.probe(1)
	before := heapInUse()
	w := s.dial()
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = io.Copy(io.Discard, w) })
	block := []byte(strings.Repeat("GET /health HTTP/1.1\r\nHost:\r\n\r\n", 10_000))
	sent, most := 0, int64(0)
	for err := error(nil); err == nil; {
		var n int
		n, err = w.Write(block)
		sent += n
		most = max(most, heapInUse()-before)
		require.Less(t, sent, 1<<30)
	}
	reader.Wait()
	st := s.Stats().Front
	t.Logf("cut after %d KiB and %d answers; at most %d KiB of memory more", sent>>10, st.Answered[2], most>>10)
	require.EqualValues(t, 1, st.Refused[front.RefuseFlood]+st.Refused[front.RefuseUnread])
	require.Less(t, most, int64(8<<20))
}

// streamReader reads the messages of one stream.
type streamReader struct{ *wiretest.Conn }

func (s *served) streamOf(channel string) streamReader {
	s.t.Helper()
	streams := s.Stats().Attached
	w := s.dial().Send(getStream(channel))
	require.Equal(s.t, 200, w.Answer(http.MethodGet).StatusCode)
	eventually(s.t, func() bool { return s.Stats().Attached > streams }, "it is attached")
	return streamReader{w}
}

// expect reads up to the next message, which has this data.
func (r streamReader) expect(data string) {
	r.T.Helper()
	require.NoError(r.T, r.SetReadDeadline(time.Now().Add(waitLong)))
	for {
		line, err := r.R.ReadString('\n')
		require.NoError(r.T, err)
		if got, ok := strings.CutPrefix(line, "data: "); ok {
			require.Equal(r.T, data, strings.TrimSuffix(got, "\n"))
			return
		}
	}
}

// Thousands of connections are reset at every point of their lives. All descriptors
// come back, and a stream beside them gets its messages.
func TestStormOfResets(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 400
	}
	s := serveEngine(t, Config{})
	s.Log().OpenLocal()
	stream := s.streamOf("a")
	files := openFiles(t)
	before := heapInUse()
	sends := []string{"", "GET /s", getHealth, getStream("a"), getStream("a") + "and more", strings.Repeat(getHealth, 20)}
	var running sync.WaitGroup
	const workers = 8
	for worker := range workers {
		running.Go(func() {
			for i := range n / workers {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				_ = conn.(*net.TCPConn).SetLinger(0)
				_, _ = io.WriteString(conn, sends[(i+worker)%len(sends)])
				if i%3 == 0 { // some have had their answer
					_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
					_, _ = conn.Read(make([]byte, 100))
				}
				_ = conn.Close()
			}
		})
	}
	for i := range 100 {
		s.Log().Publish("a", sseproto.Message{Data: fmt.Sprint("m", i)})
		stream.expect(fmt.Sprint("m", i))
	}
	running.Wait()
	eventually(t, func() bool { return s.Stats().Connections == 1 && openFiles(t) <= files }, "all descriptors are closed")
	st := s.Stats()
	t.Logf("%d connections reset: %d accepted, %d became streams, %d calls of accept, %d KiB of memory more",
		n, st.Front.Accepted, st.Front.Streams, st.Front.Accepts, (heapInUse()-before)>>10)
	require.Zero(t, st.Front.Refused[front.RefusePanic])
	require.Less(t, st.Front.Accepts, uint64(3*n))
	require.Less(t, heapInUse()-before, int64(8<<20))
	s.probe(10)
}

// Clients that never read their stream cost a slot and what the kernel buffers, not
// the messages that they miss; who reads gets them all.
func TestClientsThatNeverReadTheirStream(t *testing.T) {
	const frozen, ring = 100, 1 << 20
	const messages = 1000 // eight times what the ring holds
	s := serveEngine(t, Config{RingBytes: ring})
	s.Log().OpenLocal()
	reader := s.streamOf("a")
	payload := strings.Repeat("x", 8<<10)
	for i := range 2 * ring / len(payload) { // the ring is in use
		s.Log().Publish("a", sseproto.Message{Data: fmt.Sprint(payload, i)})
		reader.expect(fmt.Sprint(payload, i))
	}
	dead := make([]*wiretest.Conn, frozen)
	for i := range dead {
		dead[i] = s.dial()
		require.NoError(t, dead[i].Conn.(*net.TCPConn).SetReadBuffer(4<<10))
		dead[i].Send(getStream("a"))
	}
	eventually(t, func() bool { return s.Stats().Streams == frozen+1 }, "all are served")
	before := heapInUse()
	for i := range messages {
		s.Log().Publish("a", sseproto.Message{Data: fmt.Sprint(payload, i)})
		reader.expect(fmt.Sprint(payload, i))
	}
	grown := heapInUse() - before
	eventually(t, func() bool { return s.Stats().Closed[CloseSlow] == frozen }, "they are closed: %v", s.Stats().Closed)
	t.Logf("%d MiB published beside %d streams that are not read: %d KiB of memory more", messages*len(payload)>>20, frozen, grown>>10)
	require.Less(t, grown, int64(4<<20))
	require.EqualValues(t, 1, s.Stats().Streams)
}

// Clients that send on and on after their request are closed after little of it.
func TestClientsThatSendForEver(t *testing.T) {
	const clients = 20
	s := serveEngine(t, Config{})
	s.Log().OpenLocal()
	stream := s.streamOf("a")
	before := heapInUse()
	var running sync.WaitGroup
	var mu sync.Mutex
	var taken int
	for range clients {
		w := s.dial().Send(getStream("a"))
		running.Go(func() {
			block := make([]byte, 64<<10)
			for sent := 0; sent < 1<<30; {
				n, err := w.Write(block)
				sent += n
				if err != nil {
					mu.Lock()
					taken += sent
					mu.Unlock()
					return
				}
			}
			t.Error("it was left to send")
		})
	}
	for i := range 100 {
		s.Log().Publish("a", sseproto.Message{Data: fmt.Sprint("m", i)})
		stream.expect(fmt.Sprint("m", i))
	}
	running.Wait()
	eventually(t, func() bool { return s.Stats().Connections == 1 }, "they are closed")
	t.Logf("%d clients sent %d KiB each, sockets included, before they were closed; %d KiB of memory more",
		clients, taken/clients>>10, (heapInUse()-before)>>10)
	require.Less(t, heapInUse()-before, int64(8<<20))
	require.EqualValues(t, 1, s.Stats().Streams)
}

// A client that sends its request byte by byte is parsed once for each line, not
// for each byte: the time is linear.
func BenchmarkHeadByteByByte(b *testing.B) {
	s := serveEngine(b, Config{HandshakeTimeout: time.Minute})
	request := []byte("GET /health HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 8000) + "\r\n\r\n")
	conn, err := net.Dial("tcp", s.addr)
	require.NoError(b, err)
	defer conn.Close()
	r := bufio.NewReader(conn)
	for b.Loop() {
		for i := range request {
			_, _ = conn.Write(request[i : i+1])
		}
		resp, err := http.ReadResponse(r, nil)
		require.NoError(b, err)
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}
