package front

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"

	"ssed/sseproto"
)

// Front has the listeners and all connections that are not streams yet.
type Front struct {
	// fixed after construction
	cfg       Config
	host      Host
	hosts     hostList
	cors      corsPolicy
	clients   clientRules
	peers     *peers
	subjects  *subjects
	revoked   revocations
	tokenSeed maphash.Seed
	limits    sseproto.Limits
	deadlines *deadlines
	large     *largeRequests
	lobby     lobby
	listeners []*listener
	decisions context.Context    // of the Authorizer's calls
	giveUp    context.CancelFunc // ends it

	heads    headCache // atomic, as the rest
	draining atomic.Bool
	closing  atomic.Bool
	counters frontCounters

	handshakes sync.WaitGroup // connections between accept and close or hand-over
	tasks      sync.WaitGroup // goroutines that read requests
	loops      sync.WaitGroup // one goroutine for each listener
	sweeper    sync.WaitGroup
}

// RefusalSlots is how many connections may be open beyond MaxConnections for the
// moment that it takes to read their request and refuse it in the right form.
// They come out of the files that Config keeps in reserve (ReservedFiles).
const RefusalSlots = 64

// New opens the listeners of cfg.Listen. Nothing is accepted before Serve.
func New(cfg Config, host Host) (*Front, error) {
	configureNetpoll()
	if host.Takes == nil {
		host.Takes = host.Ready
	}
	f := &Front{
		cfg:     cfg,
		host:    host,
		hosts:   newHostList(cfg.Hosts),
		cors:    newCORSPolicy(cfg.CORSOrigins, cfg.CORSCredentials),
		clients: clientRules{trusted: cfg.TrustedProxies, limitsLoopback: cfg.limitsLoopback},
		peers:   newPeers(cfg.MaxPerAddress, cfg.ConnectRate, cfg.ConnectBurst),

		subjects: newSubjects(cfg.MaxPerSubject), tokenSeed: maphash.MakeSeed(),
		limits: sseproto.Limits{MaxHeadBytes: cfg.MaxHeadBytes},
	}
	f.large = newLargeRequests(maxLargeBytes, f.endLarge)
	f.lobby.front = f
	f.deadlines = newDeadlines(cfg.HandshakeTimeout, f.expire)
	f.decisions, f.giveUp = context.WithCancel(context.Background())
	for _, address := range cfg.Listen {
		l, err := listen(f, address)
		if err != nil {
			f.giveUp()
			for _, open := range f.listeners {
				open.close()
			}
			return nil, err
		}
		f.listeners = append(f.listeners, l)
	}
	return f, nil
}

// configureNetpoll makes the settings of netpoll, which are those of the process.
var configureNetpoll = sync.OnceFunc(func() {
	// The smallest node of a connection's buffer; netpoll's own bound is 4 KiB. See
	// inputBufferBytes.
	netpoll.LinkBufferCap = inputBufferBytes
	_ = netpoll.Configure(netpoll.Config{
		PollerNum:  1, // only handshakes pass through; streams have the pollers of their shards
		BufferSize: inputBufferBytes,
		Runner:     runTask,
		// It logs each accept and read error of a peer that left.
		LoggerOutput: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug).Writer(),
	})
})

// inputBufferBytes is the first buffer of a connection. Heads of browsers have 500
// to 900 bytes without cookies, so most take one read; for larger ones the buffer
// doubles. An open handshake then costs 4.1 KB in all; 3.6 KB with 512 bytes here,
// 11.2 KB with netpoll's default of 8 KiB.
const inputBufferBytes = 1 << 10

// Serve starts to accept and returns.
func (f *Front) Serve() error {
	f.sweeper.Go(f.deadlines.run)
	for _, l := range f.listeners {
		loop, err := netpoll.NewEventLoop(onRequest, netpoll.WithOnPrepare(f.prepare))
		if err != nil {
			return fmt.Errorf("front: listen %q: %w", l.address, err)
		}
		l.startServing()
		f.loops.Go(func() {
			err := loop.Serve(l)
			if !f.draining.Load() {
				f.cfg.Logger.Error("ssed: a listener ended", "listen", l.address, "error", err)
			}
			l.close()
		})
	}
	return nil
}

// StopAccepting closes the listeners. Requests under way get their answer; new
// streams are sent elsewhere.
func (f *Front) StopAccepting() {
	f.draining.Store(true)
	for _, l := range f.listeners {
		if !l.stop() {
			l.close()
		}
	}
	f.loops.Wait()
}

// Close ends everything that StopAccepting left and waits for it. Nothing is attached
// afterwards.
func (f *Front) Close() {
	f.StopAccepting()
	f.closing.Store(true)
	f.giveUp()
	f.deadlines.close()
	f.lobby.close()
	f.handshakes.Wait()
	f.tasks.Wait()
	f.sweeper.Wait()
}

// Addrs are those of the listeners, in the order of the configuration.
func (f *Front) Addrs() []net.Addr {
	var all []net.Addr
	for _, l := range f.listeners {
		all = append(all, l.addr)
	}
	return all
}

// admit counts a connection that was just accepted and returns what goes with it,
// or tells why there is no room even to refuse it politely.
func (f *Front) admit(addr netip.AddrPort) (from *remoteAddr, refused RefuseReason) {
	if f.host.Connections.Add(1) > int64(f.cfg.MaxConnections+RefusalSlots) {
		f.host.Connections.Add(-1)
		return nil, RefuseFull
	}
	peer, over := f.charge(addr.Addr())
	if over != notRefused && peer == 0 {
		f.host.Connections.Add(-1)
		return nil, over
	}
	f.handshakes.Add(1)
	f.counters.accepted.Add(1)
	f.counters.open.Add(1)
	return &remoteAddr{AddrPort: addr, peer: peer, over: over}, notRefused
}

// charge counts a connection of an address, if it is limited.
func (f *Front) charge(addr netip.Addr) (peer uint32, over RefuseReason) {
	if f.peers.isOff() || !f.clients.isLimited(addr) {
		return 0, notRefused
	}
	return f.peers.admit(addr)
}

// chargeAgain tries once more to count a connection that was over a limit of its
// address when it came, since there may be room now.
func (f *Front) chargeAgain(c *caller) (ok bool) {
	f.peers.release(c.peer, c.over)
	c.peer, c.over = f.charge(c.addr)
	return c.over == notRefused
}

// ended tells that a handshake is over and its connection closed.
func (f *Front) ended(h *handshake) {
	f.peers.release(h.from.peer, h.from.over)
	f.host.Connections.Add(-1)
	f.counters.open.Add(-1)
	f.handshakes.Done()
}

// handOver gives a connection to the host. It stays counted in host.Connections and in
// f.peers.
func (f *Front) handOver(next *Stream) {
	f.counters.streams.Add(1)
	f.counters.open.Add(-1)
	f.host.Attach(next)
	f.handshakes.Done()
}

// Release is told by the host that a stream is closed: it takes back Stream.Peer and
// Stream.Subject.
func (f *Front) Release(peer, subject uint32) {
	f.peers.release(peer, notRefused)
	f.subjects.release(subject)
}

// SubjectName is the subject of a handle that is not released; "" of 0.
func (f *Front) SubjectName(handle uint32) string { return f.subjects.name(handle) }

// FindSubject returns the handle of a subject that has a connection, or 0. It keeps its
// meaning for whoever has a stream with it.
func (f *Front) FindSubject(name string) uint32 { return f.subjects.find(name) }

// TokenHash is what is kept of the ID of a token; 0 of "". Two IDs have the same hash
// once in 18,446,744,073,709,551,616.
func (f *Front) TokenHash(id string) uint64 {
	if id == "" {
		return 0
	}
	return max(maphash.String(f.tokenSeed, id), 1)
}

// Revoke keeps a bearer out until then. Streams that it has are attached when Revoke
// returns, and those that it asks for from then on are refused.
func (f *Front) Revoke(b Bearer, until time.Time) error { return f.revoked.add(b, until) }

// ClientName tells who a connection from that address is, as far as that is still
// known. Whom a trusted proxy speaks for is only known where addresses are limited:
// an IPv4 address, or the first 64 bits of an IPv6 one. Peer is not released yet.
func (f *Front) ClientName(from netip.AddrPort, peer uint32) string {
	switch {
	case peer != 0 && f.clients.trusts(from.Addr()):
		return f.peers.name(peer)
	case from.IsValid():
		return from.String()
	}
	return ""
}

// panicked reports a bug that ended one connection.
func (f *Front) panicked(where string, cause any, stack []byte) {
	f.counters.refused[RefusePanic].Add(1)
	f.cfg.Logger.Error("ssed: "+where+" panicked", "cause", cause, "stack", string(stack))
}

// expire ends a handshake whose time is up; deadlines.mu is held.
func (f *Front) expire(h *handshake) {
	cause := shutLate
	if f.closing.Load() {
		cause = shutEnd
	}
	h.shutDown(cause)
}

// endLarge ends a handshake whose request takes memory that others need;
// largeRequests.mu is held.
func (f *Front) endLarge(h *handshake) {
	f.counters.refused[RefuseMemory].Add(1)
	h.shutDown(shutLarge)
}

// availability tells whether a stream can be taken now, and if not, why.
func (f *Front) availability() (reason RefuseReason, text string, ok bool) {
	return f.allows(f.host.Takes)
}

// allows asks the host, unless the front drains.
func (f *Front) allows(host func() (ok bool, reason string)) (reason RefuseReason, text string, ok bool) {
	if f.draining.Load() {
		return RefuseDraining, "draining", false
	}
	if ok, why := host(); !ok {
		return RefuseNotReady, why, false
	}
	return 0, "", true
}

// full reports whether there are more connections than allowed, with the one that asks.
func (f *Front) full() bool { return f.host.Connections.Load() > int64(f.cfg.MaxConnections) }

// prepare is called for each accepted connection before netpoll watches it.
func (f *Front) prepare(conn netpoll.Connection) context.Context {
	h := newHandshake(f, conn)
	if !f.deadlines.arm(h) {
		_ = conn.Close() // the front closes
	}
	return h
}

func onRequest(ctx context.Context, conn netpoll.Connection) error {
	ctx.(*handshake).read(conn.Reader())
	return nil
}

// RefuseReason names why a connection was not served; the label of a counter.
type RefuseReason uint8

// The reasons, in the order of Stats.Refused.
const (
	RefuseNotReady  RefuseReason = iota // the feed is not in order
	RefuseDraining                      // the server drains
	RefuseFull                          // MaxConnections
	RefuseFiles                         // the limit of open files of the process or the system
	RefuseTimeout                       // no whole request within HandshakeTimeout
	RefuseUnread                        // the client does not read its answers
	RefuseProtocol                      // the request is malformed
	RefusePanic                         // a bug: the request handler or the Authorizer panicked
	RefuseAddress                       // MaxPerAddress
	RefuseRate                          // ConnectRate
	RefuseFlood                         // requests come faster than they are answered
	RefuseProxy                         // no PROXY header from a trusted proxy
	RefuseDenied                        // the Authorizer said no
	RefuseUndecided                     // the Authorizer could not say
	RefuseSubject                       // MaxPerSubject
	RefuseRevoked                       // the subject or the token is kept out for a while
	RefuseMemory                        // large requests take too much memory, all together
	numRefuseReasons
)

var refuseReasonNames = [numRefuseReasons]string{
	"not-ready", "draining", "full", "files", "timeout", "unread", "protocol", "panic",
	"address", "rate", "flood", "proxy", "denied", "undecided", "subject", "revoked", "memory",
}

// String is the name of the reason in metrics.
func (r RefuseReason) String() string { return refuseReasonNames[r] }

// RefuseReasons lists all reasons, in the order of Stats.Refused.
func RefuseReasons() []RefuseReason {
	all := make([]RefuseReason, numRefuseReasons)
	for i := range all {
		all[i] = RefuseReason(i)
	}
	return all
}

type frontCounters struct {
	accepts, accepted, streams atomic.Uint64
	open, deciding             atomic.Int64
	answered                   [6]atomic.Uint64
	refused                    [numRefuseReasons]atomic.Uint64
}

// Stats is a snapshot of the front.
type Stats struct {
	Accepts    uint64                   // accept system calls, those that found nothing too
	Accepted   uint64                   // connections accepted and read from
	Handshakes int64                    // of these, the ones that are neither closed nor a stream yet
	Deciding   int64                    // of the handshakes, those that wait for the Authorizer
	Addresses  int                      // client addresses that are counted now
	Subjects   int                      // subjects that have a stream
	Revoked    int                      // subjects and tokens that are kept out
	LargeBytes int64                    // memory of requests over 16 KiB that are not whole, or not decided, yet
	Streams    uint64                   // requests that became a stream
	Answered   [6]uint64                // plain answers by the first digit of their status
	Refused    [numRefuseReasons]uint64 // connections and requests not served
}

// Accepted is how many connections have been accepted and read from.
func (f *Front) Accepted() uint64 { return f.counters.accepted.Load() }

// Stats returns a snapshot.
func (f *Front) Stats() Stats {
	s := Stats{
		Accepts: f.counters.accepts.Load(), Accepted: f.counters.accepted.Load(), Addresses: f.peers.len(),
		Subjects: f.subjects.len(), Revoked: f.revoked.len(), LargeBytes: f.large.bytes(),
		Deciding: f.counters.deciding.Load(), Handshakes: f.counters.open.Load(), Streams: f.counters.streams.Load(),
	}
	for i := range s.Answered {
		s.Answered[i] = f.counters.answered[i].Load()
	}
	for i := range s.Refused {
		s.Refused[i] = f.counters.refused[i].Load()
	}
	return s
}
