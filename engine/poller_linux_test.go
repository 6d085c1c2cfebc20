package engine

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A goroutine that saw the loop asleep may be held up until the loop has ended: the number
// of its eventfd may then be that of a connection to Redis, which would get eight bytes.
func TestLateWakeWritesToNobodysDescriptor(t *testing.T) {
	s := shardByHand(t, nil).shard
	var ends [2]int
	require.NoError(t, syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK))
	number := s.poller.evfd
	s.poller.close()
	require.NoError(t, syscall.Dup3(ends[1], number, syscall.O_CLOEXEC))
	defer func() { _, _, _ = syscall.Close(ends[0]), syscall.Close(ends[1]), syscall.Close(number) }()
	s.asleep.Store(true)
	s.wake()
	_, err := syscall.Read(ends[0], make([]byte, 8))
	require.ErrorIs(t, err, syscall.EAGAIN)
}
