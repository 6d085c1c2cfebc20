package front

import (
	"net/http"
	"runtime/debug"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// attachDirectly hands a connection whose whole request is there when it is
// accepted straight to the host. In a storm of connects nearly all are like that:
// clients send while they wait in the queue. What is not a plain request for a
// stream that can be had now, or not whole, is left in the socket for netpoll to
// read. Measured with 15,000 connects at once: a third of the CPU of the way
// through netpoll, whose connection object, buffers, epoll registration and
// goroutine serve a request that is already in our hands.
//
// Judging changes nothing here: there is no limit to try again, and no proxy that names
// its client. So what is left to netpoll can be judged once more.
//
// The descriptor was never known to netpoll, so who takes the stream is its only owner.
func (l *listener) attachDirectly(fd int, from *remoteAddr) (done bool) {
	f := l.front
	if f.cfg.Authorizer != nil || from.over != notRefused || f.clients.trusts(from.Addr()) {
		return false
	}
	defer func() {
		if cause := recover(); cause != nil {
			// A bug. Netpoll's way is guarded and counts it, if the request is its cause.
			f.cfg.Logger.Error("ssed: accept panicked", "cause", cause, "stack", string(debug.Stack()))
			done = false
		}
	}()
	n, result := sock.Peek(fd, l.scratch[:])
	if result != sock.OK || n == 0 {
		return false
	}
	req, head, err := sseproto.ParseRequest(l.scratch[:n], f.limits)
	if err != nil || head == 0 {
		return false
	}
	if !isForStream(&req) || string(req.Method) != http.MethodGet {
		return false
	}
	c := caller{fd: fd, addr: from.Addr(), peer: from.peer, over: from.over}
	v := f.judge(&req, &c, c.addr)
	if v.stream == nil {
		return false
	}
	if n, result := sock.Read(fd, l.scratch[:head]); result != sock.OK || n != head {
		return false // somebody else reads from it; let netpoll find out
	}
	f.handOver(v.stream)
	return true
}
