//go:build !linux

package engine

// The tests compile everywhere and run on Linux, as the package does.

const sockCloexec, sockNonblock = 0, 0

func bindWithoutPort(int) error { return errLinux }
func dropAll(int) error         { return errLinux }
