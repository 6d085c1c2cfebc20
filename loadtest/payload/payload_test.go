package payload

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBodiesHaveTheirLengthAndFields(t *testing.T) {
	f := func(size, want int) {
		t.Helper()
		b := string(Append([]byte("x"), 0xabc, 1<<32-1, 1<<62, size))
		require.Len(t, b, 1+want)
		require.Equal(t, fmt.Sprintf("x%s%08x%08x%08x%016x", Magic, 0xabc, want, uint32(1<<32-1), 1<<62), b[:1+MinBytes])
		require.True(t, IsFill([]byte(b[1+MinBytes:])))
		require.False(t, IsFill([]byte(b)))
	}
	f(0, MinBytes)
	f(MinBytes, MinBytes)
	f(128, 128)
	f(20_000, 20_000)
}

func TestBodiesNeedNoEscaping(t *testing.T) {
	b := string(Append(nil, 1, 2, 3, 200))
	require.NotContains(t, b, "\n")
	require.False(t, strings.ContainsAny(b, "\"\\<>&"))
	require.Equal(t, 0, strings.LastIndexByte(b, Magic[0]), "the first byte of the magic occurs once")
}
