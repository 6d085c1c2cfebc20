package front

import (
	"container/list"
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"
	"github.com/valyala/bytebufferpool"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// handshake is a connection from accept until it is closed or becomes a stream.
//
// Leaving netpoll takes care. Detach, called while a request is read, only marks
// the connection; when the handler has returned, netpoll takes the descriptor out
// of its epoll, forgets it and waits until its poller lets go of it, all within
// the task that it gave to runTask. Only after that may the descriptor be used
// elsewhere: handed over earlier, it could be closed by its new owner and its number
// given to a new connection, from which the poller would then read or which
// netpoll would forget in place of ours. So the hand-over is the last thing that
// happens, after the tasks of the connection have returned.
//
// Closing takes as much. A connection is closed by netpoll alone: by its poller, or by a
// task at its end. Others, which it does not wait for, shut the socket down instead, and
// the poller finds it hung up: the deadlines, and who needs the memory. Closed by
// them while netpoll takes it in, its poller would read from whose the number is by then.
// closed takes h out of their lists, under their locks, before the descriptor is free.
//
// Tasks can overlap at their ends: one that is through with its input may still
// be returning when the next starts. Hence the count in tasks; the last one out hands
// over. No task starts after the one that detached, as netpoll keeps its lock for good.
type handshake struct {
	context.Context // netpoll gives it back to runTask and onRequest

	// fixed after construction
	front *Front
	conn  detachable

	// guarded by netpoll's processing lock, which a task or the close callback holds
	phase   phase
	head    *bytebufferpool.ByteBuffer // the start of a request; nil between requests
	isLarge bool                       // front.large knows of it
	scan    sseproto.HeadScan
	bodyAt  int               // where in head the body begins that is coming in; 0: there is none
	body    sseproto.BodyScan // of that body
	from    caller
	excess  int          // bytes that may still be thrown away while lingering
	next    *Stream      // what it becomes, once detached
	ask     *AuthRequest // what the Authorizer has to decide before; nil: nothing
	asked   int64        // memory that ask takes, 0 of a small one
	served  bool         // it had an answer

	tasks tasks
	shut  atomic.Uint32 // a shutCause: its socket was shut down

	// guarded by largeRequests.mu
	large      *list.Element // nil: not in the list
	largeBytes int64

	// guarded by deadlines.mu
	due          time.Time // zero: not in the list
	older, newer *handshake
}

// tasks counts the tasks of a connection that have not returned, and tells in the same
// word that one of them has detached it. In two words a task that found the count at
// zero could be held up before it looks at the other, while the next one starts and
// detaches: the connection would go on while netpoll still has it, and then once more.
// One descriptor in two slots is, when the first has closed it, the next client's
// connection with the messages of the last.
type tasks struct{ word atomic.Uint32 }

// taskDetached is above any count of goroutines.
const taskDetached = 1 << 31

func (t *tasks) enter() { t.word.Add(1) }

// detach tells that the connection leaves netpoll. The task that calls it has not returned.
func (t *tasks) detach() { t.word.Add(taskDetached) }

func (t *tasks) detached() bool { return t.word.Load() >= taskDetached }

// leave tells that a task has returned, and reports to one alone that it was the last
// one of a connection that has left netpoll.
func (t *tasks) leave() (last bool) { return t.word.Add(^uint32(0)) == taskDetached }

// detachable is a connection of netpoll with the method that its interface leaves out.
type detachable interface {
	netpoll.Connection
	Fd() int
	Detach() error
}

type phase uint8

const (
	phaseReading phase = iota
	// phaseProxied: the PROXY header of a trusted proxy has to come first.
	phaseProxied
	// phaseLingering: the last answer is out and our side closed. What still comes is
	// thrown away, since closing with unread input would reset the connection and
	// could take the answer with it (RFC 9112 §9.6).
	phaseLingering
	phaseEnded // closed or detached
)

// shutCause tells why a socket was shut down, by others than its tasks.
type shutCause = uint32

const (
	notShut   shutCause = iota
	shutLate            // its deadline has come
	shutLarge           // others need its memory
	shutEnd             // the front closes
)

// shutDown lets netpoll close the connection. The caller knows that it is not closed yet.
func (h *handshake) shutDown(cause shutCause) {
	h.shut.Store(cause)
	sock.Shutdown(h.from.fd)
}

func (h *handshake) isShut() bool { return h.shut.Load() != notShut }

const (
	// chunkBytes is how much input is looked at in one go.
	chunkBytes = sseproto.DefaultMaxHeadBytes
	// maxBacklogBytes is how far requests may come faster than they are answered. Netpoll
	// reads what there is, with no way to hold it back: 20 MB a second from one client
	// before this limit. The largest request fits.
	maxBacklogBytes = 8 * chunkBytes
	// flushBytes is how many bytes of answers are gathered before they are written.
	// Pipelined health checks fit many times.
	flushBytes = 4 << 10
	// lingerBytes is how much of a body is read and thrown away after a refusal, so
	// that a client that sends first and reads later sees the answer.
	lingerBytes = 2 << 20
)

func newHandshake(f *Front, conn netpoll.Connection) *handshake {
	h := &handshake{Context: context.Background(), front: f, conn: conn.(detachable)}
	from := conn.RemoteAddr().(*remoteAddr)
	h.from = caller{fd: h.conn.Fd(), addr: from.Addr(), peer: from.peer, over: from.over}
	if f.cfg.ProxyProtocol && f.clients.trusts(h.from.addr) {
		h.phase = phaseProxied
	}
	_ = conn.AddCloseCallback(h.closed)
	return h
}

// runTask is netpoll's runner: it is called with the processing lock of the
// connection held, and task holds it until it is through. A plain goroutine: with
// netpoll's pool of goroutines a request took as long (75 µs with a new connection,
// both sides) and two more allocations.
func runTask(ctx context.Context, task func()) {
	h, ok := ctx.(*handshake)
	if !ok {
		go task() // a connection of another user of netpoll in this process
		return
	}
	h.tasks.enter()
	h.front.tasks.Add(1)
	go h.run(task)
}

func (h *handshake) run(task func()) {
	defer h.front.tasks.Done()
	task()
	if h.tasks.leave() {
		h.handOn()
	}
}

// handOn goes on with a connection that has left netpoll.
func (h *handshake) handOn() {
	if h.ask != nil {
		h.front.decide(h)
		return
	}
	h.front.handOver(h.next)
}

// closed is called once, when netpoll has taken the connection out of its epoll
// and is about to close the descriptor, or to leave it to us when detached.
func (h *handshake) closed(netpoll.Connection) error {
	h.front.deadlines.disarm(h)
	if h.shut.Load() == shutLate && h.isReading() && (h.head != nil || !h.served) {
		h.front.counters.refused[RefuseTimeout].Add(1) // and not an idle connection after an answer
	}
	h.keep(nil)
	if !h.tasks.detached() {
		h.front.ended(h)
	}
	return nil
}

func (h *handshake) isReading() bool { return h.phase == phaseReading || h.phase == phaseProxied }

// read consumes all input; netpoll calls it again as long as there is some.
func (h *handshake) read(in netpoll.Reader) {
	defer h.recoverPanic()
	for h.isReading() && in.Len() > 0 {
		if h.isShut() {
			_ = h.conn.Close() // and not end: closed counts who was still being read from
			break
		}
		chunk, err := in.Next(min(in.Len(), chunkBytes))
		if err != nil {
			h.end()
			break
		}
		h.take(chunk)
		_ = in.Release() // now, since a client may keep this loop going
		if h.isReading() && in.Len() > maxBacklogBytes {
			h.front.counters.refused[RefuseFlood].Add(1)
			h.end()
		}
	}
	if h.phase == phaseLingering {
		h.discard(in)
	}
	_ = in.Release()
}

// recoverPanic turns a panic into a closed connection: whatever a request provokes, it
// concerns its sender alone. Netpoll must not see it, it could close twice.
func (h *handshake) recoverPanic() {
	if cause := recover(); cause != nil {
		h.front.panicked("request handler", cause, debug.Stack())
		h.end()
	}
}

// take adds input and serves the requests that are whole now. Chunk is borrowed.
func (h *handshake) take(chunk []byte) {
	data := chunk
	if h.head != nil {
		h.head.B = append(makeRoom(h.head.B, len(chunk)), chunk...)
		h.account()
		data = h.head.B
		if h.phase == phaseReading && !h.isReady(data) {
			return
		}
	}
	out := bytebufferpool.Get()
	defer bytebufferpool.Put(out)
	if h.phase == phaseProxied {
		n := h.readProxyHeader(data, out)
		if n == 0 {
			h.keep(data)
			return
		}
		data = data[n:]
	}
	h.keep(h.serve(data, out))
}

// readProxyHeader reads the PROXY header at the start of data and returns its length, or
// 0 when it is not whole yet. Whoever is refused by it has ended, and all of data
// counts as read.
func (h *handshake) readProxyHeader(data []byte, out *bytebufferpool.ByteBuffer) int {
	source, n, err := parseProxyHeader(data)
	if err != nil {
		out.B = h.front.appendProxyRefusal(out.B)
		if h.flush(out) {
			h.linger()
		}
		return len(data)
	}
	if n == 0 {
		return 0
	}
	h.phase = phaseReading
	h.from.proxied = true
	if !source.IsValid() {
		return n // the proxy speaks for itself
	}
	h.from.addr = source.Addr()
	if h.from.peer, h.from.over = h.front.charge(h.from.addr); h.from.over == notRefused || h.from.peer != 0 {
		return n
	}
	out.B = h.front.appendOverload(out.B, data[n:], h.from.over)
	if h.flush(out) {
		h.linger()
	}
	return len(data)
}

// isReady reports whether what has come can make the request in data whole, or wrong.
func (h *handshake) isReady(data []byte) bool {
	if h.bodyAt > 0 {
		return h.body.Ready(data[h.bodyAt:])
	}
	return h.scan.Ready(data, h.front.limits)
}

// parseRequest reads the request at the start of data, with the body of one that has
// parameters in it. head is the length of its head, n of all. head alone: the body is not
// whole, or err tells why it cannot be taken.
func parseRequest(data []byte, limits sseproto.Limits, body *sseproto.BodyScan) (req sseproto.Request, head, n int, err error) {
	req, head, err = sseproto.ParseRequest(data, limits)
	if head == 0 || !bringsParams(&req) {
		return req, head, head, err
	}
	size, err := req.ReadBody(data[head:], body)
	if size == 0 {
		return req, head, 0, err
	}
	return req, head, head + size, nil
}

// serve answers the requests in data and returns the incomplete one at its end.
func (h *handshake) serve(data []byte, out *bytebufferpool.ByteBuffer) (rest []byte) {
	then := thenKeep
	for then == thenKeep && len(data) > 0 {
		req, head, n, err := parseRequest(data, h.front.limits, &h.body)
		switch {
		case err != nil && head == 0:
			out.B, then = h.front.appendRefusal(out.B, err), thenLinger
		case err != nil:
			out.B, then = h.front.appendBodyRefusal(out.B, &req, err)
		case n == 0:
			if h.flush(out) && head > 0 {
				h.awaitBody(&req, data, head)
			}
			return data
		default:
			h.bodyAt, h.body = 0, sseproto.BodyScan{}
			out.B, then = h.front.appendAnswer(out.B, &req, h)
			if then == thenAuthorize {
				h.ask.Request = copyRequest(data[:n], h.front.limits)
				if n > smallBytes {
					h.asked = int64(n + len(h.ask.Request.Params))
				}
			}
			data = data[n:]
		}
		if len(out.B) >= flushBytes && !h.flush(out) {
			return nil
		}
	}
	if h.flush(out) {
		h.proceed(then)
	}
	return nil
}

// awaitBody waits for the rest of a body that begins at data[head:]. A client that asked
// for it is told to send (RFC 9110 §10.1.1), unless it has begun to. It has no more time
// than it had for the head.
func (h *handshake) awaitBody(req *sseproto.Request, data []byte, head int) {
	if h.bodyAt == 0 && req.ExpectContinue && len(data) == head {
		h.send([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
	h.bodyAt = head
}

// proceed does to the connection what the last answer demands.
func (h *handshake) proceed(then afterAnswer) {
	switch then {
	case thenKeep:
	case thenClose:
		h.end()
	case thenLinger:
		h.linger()
	case thenAttach, thenAuthorize:
		h.leave()
	}
}

// keep stores the start of a request until more comes. Rest may be part of h.head.
func (h *handshake) keep(rest []byte) {
	if len(rest) == 0 {
		if h.head != nil && cap(h.head.B) <= smallBytes {
			headBuffers.Put(h.head)
		}
		h.head = nil
		h.account()
		return
	}
	if h.head == nil {
		h.head = headBuffers.Get()
	}
	h.head.B = append(makeRoom(h.head.B[:0], len(rest)), rest...)
	h.account()
	h.scan = sseproto.HeadScan{}
	_ = h.scan.Ready(h.head.B, h.front.limits) // marks as seen what was parsed just now
}

// makeRoom gives the start of a request room for more bytes. A small one takes smallBytes
// at most, a larger one a multiple of smallBytes. So the memory of a large request depends
// on its length, not on the pieces that it comes in. Append alone gave 18 KiB to a request
// of 14 KiB in two pieces, which counted as a large one then.
func makeRoom(head []byte, more int) []byte {
	bytes := len(head) + more
	if bytes <= cap(head) {
		return head
	}
	room := min(max(bytes, 2*cap(head)), smallBytes)
	if bytes > smallBytes {
		room = (bytes + smallBytes - 1) / smallBytes * smallBytes
	}
	return append(make([]byte, 0, room), head...)
}

// headBuffers has no large ones, which would count as much for a small request.
var headBuffers bytebufferpool.Pool

// account tells front.large of the memory that h.head takes, if it concerns it.
func (h *handshake) account() {
	bytes := 0
	if h.head != nil && cap(h.head.B) > smallBytes {
		bytes = cap(h.head.B)
	}
	if h.isLarge || bytes > 0 {
		h.isLarge = bytes > 0
		h.front.large.set(h, int64(bytes))
	}
}

// flush writes the answers with one system call that does not wait. A client that
// leaves its socket full does not read its answers and is not waited for.
func (h *handshake) flush(out *bytebufferpool.ByteBuffer) bool {
	if len(out.B) == 0 {
		return true
	}
	if !h.send(out.B) {
		return false
	}
	out.Reset()
	h.served = true
	h.front.deadlines.arm(h)
	return true
}

// send writes what its socket takes at once, and ends who does not take all of it.
func (h *handshake) send(b []byte) bool {
	n, result := sock.Send(h.from.fd, []sock.Iovec{sock.Piece(b)})
	if result == sock.OK && n == len(b) {
		return true
	}
	if result != sock.Failed {
		h.front.counters.refused[RefuseUnread].Add(1)
	}
	h.end()
	return false
}

// end closes the connection; netpoll does it when the task returns.
func (h *handshake) end() {
	h.phase = phaseEnded
	_ = h.conn.Close()
}

// linger closes our side and waits for the peer to close, or for the deadline.
func (h *handshake) linger() {
	h.phase = phaseLingering
	h.excess = lingerBytes
	sock.ShutdownWrite(h.from.fd)
}

func (h *handshake) discard(in netpoll.Reader) {
	n := in.Len()
	h.excess -= n
	if in.Skip(n) != nil || h.excess < 0 {
		h.end()
	}
}

// leave takes the connection out of netpoll. The descriptor is ours when all tasks
// have returned, see run; what follows the request is dropped.
func (h *handshake) leave() {
	h.phase = phaseEnded
	h.front.deadlines.disarm(h)
	h.tasks.detach()
	_ = h.conn.Detach()
}
