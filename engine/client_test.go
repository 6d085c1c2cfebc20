package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// event is what a test client saw.
type event struct {
	id, kind, data string
}

// testClient is one stream, read on demand.
type testClient struct {
	t    testing.TB
	conn net.Conn
	dec  *sseproto.Decoder
	got  []event
	buf  []byte
	wire dechunker
}

// startEngine runs an engine until the test ends.
func startEngine(t testing.TB, change func(*Config)) *Engine { return startTuned(t, change, nil) }

// startTuned is startEngine with a change of the engine before it runs.
func startTuned(t testing.TB, change func(*Config), tune func(*Engine)) *Engine {
	cfg := Config{
		Listen: []string{"127.0.0.1:0"}, Shards: 2, RingBytes: 4 << 20, Drain: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	require.NoError(t, err)
	if tune != nil {
		tune(e)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { require.NoError(t, e.Run(ctx)) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
		require.Zero(t, e.conns.Load(), "connections left open")
	})
	return e
}

// socketPair returns a connected pair: a non-blocking descriptor for the engine
// and a connection for the test.
func socketPair(t testing.TB) (int, net.Conn) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|sockCloexec|sockNonblock, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fds[1]), "client")
	conn, err := net.FileConn(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return fds[0], conn
}

// tcpPair is socketPair with TCP, whose window tells what a client has not read.
func tcpPair(t testing.TB) (int, net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	conn, err := ln.Accept()
	require.NoError(t, err)
	file, err := conn.(*net.TCPConn).File()
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	fd, err := syscall.Dup(int(file.Fd()))
	require.NoError(t, err)
	require.NoError(t, file.Close())
	require.NoError(t, syscall.SetNonblock(fd, true))
	return fd, client
}

// join attaches a client past the front.
func join(t testing.TB, e *Engine, resume resumePoint, channels ...string) *testClient {
	return joinFormed(t, e, 0, resume, channels...)
}

// joinFormed is join for a stream of some form.
func joinFormed(t testing.TB, e *Engine, f form, resume resumePoint, channels ...string) *testClient {
	fd, conn := socketPair(t)
	attachFormed(e, fd, f, resume, channels...)
	return newFormedClient(t, conn, f)
}

// attachFd makes a descriptor a stream, past the front.
func attachFd(e *Engine, fd int, resume resumePoint, channels ...string) {
	attachFormed(e, fd, 0, resume, channels...)
}

func attachFormed(e *Engine, fd int, f form, resume resumePoint, channels ...string) {
	e.conns.Add(1)
	a := &front.Stream{
		FD: fd, Head: []byte("HEAD\n"), Channels: channels, Since: e.log.standing(),
		Chunked: f&formChunked != 0, Told: f&formTold != 0,
		LastEventID: resume.raw, Resumes: resume.kind == resumeID || resume.kind == resumeUnknown,
	}
	if resume.kind == resumeStart {
		a.Start = &resume.start
	}
	e.attach(a)
}

func newTestClient(t testing.TB, conn net.Conn) *testClient { return newFormedClient(t, conn, 0) }

func newFormedClient(t testing.TB, conn net.Conn, f form) *testClient {
	c := &testClient{t: t, conn: conn, buf: make([]byte, 64<<10)}
	c.wire.plain = f&formChunked == 0
	c.forget()
	t.Cleanup(func() { _ = conn.Close() })
	return c
}

// forget makes the decoder one that has seen nothing of what was read so far.
func (c *testClient) forget() {
	c.dec = &sseproto.Decoder{OnEvent: func(id, kind, data []byte) {
		c.got = append(c.got, event{string(id), string(kind), string(data)})
	}}
}

// joined attaches a client and returns when it is subscribed.
func joined(t testing.TB, e *Engine, resume resumePoint, channels ...string) *testClient {
	c := join(t, e, resume, channels...)
	c.read()
	return c
}

func after(id sseproto.ID) resumePoint { return resumePoint{kind: resumeID, id: id, raw: id.String()} }

func (c *testClient) read() error {
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(waitLong)))
	n, err := c.conn.Read(c.buf)
	c.take(c.buf[:n])
	return err
}

// take reads what has come.
func (c *testClient) take(b []byte) {
	text, err := c.wire.read(b)
	require.NoError(c.t, err)
	_, _ = c.dec.Write(text)
}

// next returns the next n events.
func (c *testClient) next(n int) []event {
	c.t.Helper()
	for len(c.got) < n {
		if err := c.read(); err != nil {
			require.Failf(c.t, "stream ended", "after %d of %d events: %v", len(c.got), n, err)
		}
	}
	got := c.got[:n]
	c.got = c.got[n:]
	return got
}

// ended reads until the connection is closed.
func (c *testClient) ended() []event {
	for c.read() == nil {
	}
	got := c.got
	c.got = nil
	return got
}

func datas(events []event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.data
	}
	return all
}

// feed drives a log like the Redis feed does.
type feed struct {
	log *Log
	t   uint64
	n   uint64
}

func startFeed(e *Engine, t uint64) *feed {
	f := &feed{log: e.log, t: t}
	f.log.OpenSpan(sseproto.ID{Ms: t})
	return f
}

func (f *feed) publish(channel, payload string) sseproto.ID {
	f.n++
	id := sseproto.ID{Ms: f.t, Seq: f.n}
	f.log.Append(id, channel, payload)
	return id
}

func (f *feed) tick(watermark sseproto.ID) {
	f.t, f.n = f.t+100, 0
	f.log.Commit(sseproto.ID{Ms: f.t}, watermark)
}

func numbered(prefix string, from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprintf("%s%d", prefix, i))
	}
	return all
}

const (
	waitLong  = time.Minute
	pollEvery = 5 * time.Millisecond
)
