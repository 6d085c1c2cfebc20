//go:build !linux

package engine

import (
	"errors"
	"runtime"
)

var errLinux = errors.New("engine: runs on Linux only, and this is " + runtime.GOOS)

// poller is only there for the package to compile: newPoller fails, so there is none.
type poller struct{}

func newPoller() (*poller, error) { return nil, errLinux }

func (*poller) park(int, uint32, uint32) error { return errLinux }
func (*poller) wait(int)                       {}
func (*poller) hasEvents() bool                { return false }
func (*poller) next() readiness                { return readiness{} }
func (*poller) wake()                          {}
func (*poller) close()                         {}

func yieldCPU() {}
