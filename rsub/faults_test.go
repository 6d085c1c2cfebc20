package rsub

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

func (r *recorder) isOpen() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now().open
}

// watermarks is a Sink that keeps the watermarks.
type watermarks struct {
	discard
	mu   sync.Mutex
	list []sseproto.ID
}

func (w *watermarks) Commit(_, watermark sseproto.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, watermark)
}

func (w *watermarks) has(id sseproto.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.list, id)
}

// pause is the pace of work in the background: without one it took most of what the machine has.
const pause = 2 * time.Millisecond

// background repeats work until the returned function is called.
func background(t *testing.T, work func(i int)) (stop func()) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-time.After(pause):
				work(i)
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(quit); <-done })
	t.Cleanup(stop)
	return stop
}

// noise publishes until the returned function is called, and breaks off no message.
func noise(t *testing.T, s *redistest.Server, publishers, count int, tag string) (stop func()) {
	t.Helper()
	client := dial(t, s)
	return background(t, func(i int) { publish(client, publishers, count, fmt.Sprint(tag, i)) })
}

// subscribers returns the ids of the subscribed connections with the name.
func subscribers(t *testing.T, s *redistest.Server, name string) []string {
	t.Helper()
	var ids []string
	for line := range strings.Lines(do(t, s, "CLIENT", "LIST", "TYPE", "pubsub").(string)) {
		fields := map[string]string{}
		for _, f := range strings.Fields(line) {
			k, v, _ := strings.Cut(f, "=")
			fields[k] = v
		}
		if fields["name"] == name {
			ids = append(ids, fields["id"])
		}
	}
	return ids
}

func killPubSub(t *testing.T, s *redistest.Server, name string) {
	t.Helper()
	for _, id := range subscribers(t, s, name) {
		do(t, s, "CLIENT", "KILL", "ID", id)
	}
}

// killCommands ends the connections with the name that are not subscribed.
func killCommands(t *testing.T, s *redistest.Server, name string) {
	t.Helper()
	for line := range strings.Lines(do(t, s, "CLIENT", "LIST", "TYPE", "normal").(string)) {
		if fields := strings.Fields(line); slices.Contains(fields, "name="+name) {
			do(t, s, "CLIENT", "KILL", "ID", strings.TrimPrefix(fields[0], "id="))
		}
	}
}

func killOnePubSub(t *testing.T, s *redistest.Server, name string, n int) {
	t.Helper()
	ids := subscribers(t, s, name)
	require.NotEmpty(t, ids)
	do(t, s, "CLIENT", "KILL", "ID", ids[n%len(ids)])
}

// requireSameWhereCovered checks that each span of an instance holds exactly what
// the complete record has between its ends.
func requireSameWhereCovered(t *testing.T, in *instance, all []message) {
	t.Helper()
	in.sink.mu.Lock()
	defer in.sink.mu.Unlock()
	for _, s := range in.sink.spans {
		through := s.through
		if s.open {
			through = s.last()
		}
		within := func(list []message) (part []message) {
			for _, m := range list {
				if s.low.Less(m.id) && !through.Less(m.id) {
					part = append(part, m)
				}
			}
			return part
		}
		require.Equal(t, within(all), within(s.messages), "span after %v", s.low)
	}
}

// proxy stands between a feed and Redis.
type proxy struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex // guards the rest
	to    string     // of new connections
	conns []*proxied
}

type proxied struct {
	client, server net.Conn
	mu             sync.Mutex
	subscriber     bool
	muted          bool
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{l: l, to: to}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to := p.to
		p.mu.Unlock()
		server, err := net.Dial("tcp", to)
		if err != nil {
			client.Close()
			continue
		}
		c := &proxied{client: client, server: server}
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
		p.wg.Go(func() { c.copy(server, client, c.watch); server.Close() })
		p.wg.Go(func() { c.copy(client, server, c.mayPass); client.Close() })
	}
}

// copy passes on what keep lets through.
func (c *proxied) copy(dst io.Writer, src io.Reader, keep func([]byte) bool) {
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		if n > 0 && keep(b[:n]) {
			_, _ = dst.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

func (c *proxied) watch(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscriber = c.subscriber || strings.Contains(string(b), "PSUBSCRIBE")
	return true
}

func (c *proxied) mayPass([]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.muted
}

// lead sends new connections elsewhere.
func (p *proxy) lead(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

// muteSubscribers swallows what Redis sends on the present subscriptions.
func (p *proxy) muteSubscribers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.mu.Lock()
		c.muted = c.subscriber
		c.mu.Unlock()
	}
}

// cut ends all present connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.client.Close()
		c.server.Close()
	}
}

func (p *proxy) close() {
	p.l.Close()
	p.cut()
	p.wg.Wait()
}

func leaderOf(t *testing.T, list []*instance) *instance {
	t.Helper()
	var leader *instance
	eventually(t, func() bool {
		for _, in := range list {
			if in.Stats().Leading {
				leader = in
				return true
			}
		}
		return false
	}, "nobody leads")
	return leader
}
