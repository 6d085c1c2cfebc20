package front

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// What SECURITY.md says of bounds without a flag is what they are.
func TestSecurityTellsTheBoundsOfRequests(t *testing.T) {
	text, err := os.ReadFile("../../../SECURITY.md")
	require.NoError(t, err)
	f := &Front{}
	require.Zero(t, f.limits, "those of sseproto")
	for _, row := range []string{
		fmt.Sprintf("| request head | %d KiB, %d fields |", sseproto.DefaultMaxHeadBytes>>10, sseproto.DefaultMaxFields),
		fmt.Sprintf("| pipelining | %d KiB ahead of the answers |", maxBacklogBytes>>10),
	} {
		require.Contains(t, string(text), row)
	}
}
