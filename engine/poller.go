package engine

import "ssed/engine/internal/sock"

// readiness is one event on a parked descriptor, as told by the kernel.
type readiness struct {
	slot, gen            uint32
	readable, writable   bool
	peerClosed, hadError bool
}

// wakeSlot marks the wake-up descriptor among the events; no slot has it.
const wakeSlot = ^uint32(0)

// The socket calls, by the names that the loops use.
type (
	iovec    = sock.Iovec
	ioResult = sock.Result
)

const (
	ioOK      = sock.OK
	ioAgain   = sock.Again
	ioStarved = sock.Starved
	ioFailed  = sock.Failed
	maxIovecs = sock.MaxIovecs
)

func piece(b []byte) iovec                       { return sock.Piece(b) }
func extend(v *iovec, b []byte) bool             { return sock.Extend(v, b) }
func sendFd(fd int, vec []iovec) (int, ioResult) { return sock.Send(fd, vec) }
func readFd(fd int, b []byte) (int, ioResult)    { return sock.Read(fd, b) }
func closeFd(fd int)                             { sock.Close(fd) }
