//go:build !linux

// Package sock is only there to compile: the engine runs on Linux, and nothing else calls it.
package sock

import "net/netip"

// Result is the outcome of one non-blocking system call.
type Result uint8

// As on Linux.
const (
	OK Result = iota
	Again
	Starved
	Failed
)

// Iovec is one Piece of a gathered write.
type Iovec struct {
	Base *byte
	Len  uint64
}

// MaxIovecs is that of Linux.
const MaxIovecs = 1024

// The calls below are explained in sock_linux.go. Here they do nothing.

func Piece([]byte) Iovec              { return Iovec{} }
func Extend(*Iovec, []byte) bool      { return false }
func Send(int, []Iovec) (int, Result) { return 0, Failed }
func Read(int, []byte) (int, Result)  { return 0, Failed }
func Peek(int, []byte) (int, Result)  { return 0, Failed }
func Close(int)                       {}
func ShutdownWrite(int)               {}
func Shutdown(int)                    {}
func Discard(int)                     {}

// TCPInfo has nothing.
type TCPInfo struct{}

func Window(int, *TCPInfo) (uint32, bool) { return 0, false }
func Unsent(int, *TCPInfo) (uint32, bool) { return 0, false }
func LimitUnsent(int, int)                {}

// FileLimit is the least that systems have.
func FileLimit() int { return 256 }

// PeerOf knows none.
func PeerOf(int) netip.AddrPort { return netip.AddrPort{} }
