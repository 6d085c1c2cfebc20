//go:build race

package front

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A descriptor that is closed leaves a number that the next ones do not get.
func TestNumbersAreNotGivenOutAgainAtOnce(t *testing.T) {
	seen := make(map[int]bool)
	for range 100 {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		fresh := renumber(fd)
		require.NotEqual(t, fd, fresh)
		require.False(t, isOpen(fd), "there is one descriptor")
		require.False(t, seen[fresh])
		seen[fresh] = true
		flags, err := unix.FcntlInt(uintptr(fresh), unix.F_GETFD, 0)
		require.NoError(t, err)
		require.Equal(t, unix.FD_CLOEXEC, flags)
		require.NoError(t, unix.Close(fresh))
	}
}
