//go:build !linux

package engine

import (
	"errors"
	"runtime"
)

var errLinux = errors.New("engine: it runs on Linux only, and this is " + runtime.GOOS)

// poller is only there for the package to compile: newPoller fails, so there is none.
type poller struct{}

func newPoller() (*poller, error) { return nil, errLinux }

func (*poller) park(int, uint32, uint32) error { return errLinux }
func (*poller) wait(int) int                   { return 0 }
func (*poller) event(int) readiness            { return readiness{} }
func (*poller) wake()                          {}
func (*poller) close()                         {}

func yieldCPU() {}
