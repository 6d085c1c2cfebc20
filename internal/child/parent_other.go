//go:build !linux

package child

import "syscall"

// endWithParent does nothing: the kernel has no such thing here, and a parent that is
// killed leaves the program behind.
func endWithParent(*syscall.SysProcAttr) {}
