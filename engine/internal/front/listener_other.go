//go:build !linux

package front

import (
	"errors"
	"net"
)

// listener is only there for the package to compile: listen fails, so there is none.
type listener struct {
	net.Listener
	front   *Front
	address string
	addr    net.Addr
	scratch [chunkBytes]byte
}

func listen(*Front, string) (*listener, error) {
	return nil, errors.New("front: runs on Linux only")
}

func (*listener) startServing() {}
func (*listener) stop() bool    { return false }
func (*listener) close()        {}

// Fd implements netpoll.Listener.
func (*listener) Fd() int { return -1 }
