package front

import (
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"ssed/engine/internal/sock"
)

// lobby is where connections wait that come when the server is full, and so are the
// RefusalSlots: for the moment that their request takes to come, so that probes are
// answered truthfully and others in the form that they understand. It is small; who
// comes sends the one away that has waited longest. So a flood of connections leaves a
// probe some milliseconds at least, and needs them not longer than lobbyWait.
type lobby struct {
	front *Front

	mu       sync.Mutex
	waiting  []*os.File // oldest first; guarded by mu
	open     int        // those that wait, and those that are being answered; guarded by mu
	isClosed bool
	running  sync.WaitGroup // a goroutine for each that waits
}

const (
	// lobbySize bounds the connections that wait in the lobby, and those that are being
	// answered: who is sent away keeps its file until its goroutine has run, and a flood
	// comes faster than that on a busy machine. As RefusalSlots they come out of the files
	// that Config keeps in reserve.
	lobbySize = 32
	// lobbyWait is how long one waits. A client sends its request together with the last
	// packet of the connection's handshake, or right behind it.
	lobbyWait = 100 * time.Millisecond
	// lobbyBytes is how much of a request is looked at. Those of probes are smaller; a
	// longer one is answered as one for a stream.
	lobbyBytes = 2 << 10
)

// atOnce is a deadline that has passed.
var atOnce = time.Unix(1, 0)

// take lets a connection wait. The descriptor is the lobby's then. It reports false, and
// takes nothing, while too many are being answered and after close.
func (l *lobby) take(fd int, reason RefuseReason) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed || l.open == 2*lobbySize {
		return false
	}
	l.open++
	if len(l.waiting) == lobbySize {
		_ = l.waiting[0].SetReadDeadline(atOnce)
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	conn := os.NewFile(uintptr(fd), "refused") // pollable, since it does not block
	_ = conn.SetReadDeadline(time.Now().Add(lobbyWait))
	l.waiting = append(l.waiting, conn)
	l.running.Go(func() { l.answer(conn, reason) })
	return true
}

// answer waits for the request, answers and closes.
func (l *lobby) answer(conn *os.File, reason RefuseReason) {
	defer func() {
		if cause := recover(); cause != nil {
			l.front.panicked("answer to a refused connection", cause, debug.Stack())
		}
		l.mu.Lock()
		if i := slices.Index(l.waiting, conn); i >= 0 {
			l.waiting = slices.Delete(l.waiting, i, i+1)
		}
		l.mu.Unlock()
		_ = conn.Close()
		l.mu.Lock()
		l.open--
		l.mu.Unlock()
	}()
	request := make([]byte, lobbyBytes)
	n, _ := conn.Read(request)
	raw, err := conn.SyscallConn()
	if err == nil && n == 0 {
		// Behind its deadline Read does not look: on a busy machine this may run late, and
		// what came in time is there.
		_ = raw.Control(func(fd uintptr) { n, _ = sock.Read(int(fd), request) })
	}
	answer := l.front.appendOverload(nil, request[:n], reason)
	if err == nil {
		// Its socket is empty, so this does not wait. Write would need a deadline, and
		// writes nothing when that has passed before it runs.
		_ = raw.Control(func(fd uintptr) {
			_, _ = sock.Send(int(fd), []sock.Iovec{sock.Piece(answer)})
			sock.ShutdownWrite(int(fd))
		})
	}
}

// close answers those who wait at once, and waits for that.
func (l *lobby) close() {
	l.mu.Lock()
	l.isClosed = true
	for _, conn := range l.waiting {
		_ = conn.SetReadDeadline(atOnce)
	}
	l.mu.Unlock()
	l.running.Wait()
}
