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
	f := listenOnly(t, Config{}).front
	require.Zero(t, f.limits.MaxFields, "that of sseproto")
	for _, item := range []string{
		fmt.Sprintf("* `--max-head` (%dKiB):", f.limits.MaxHeadBytes>>10),
		fmt.Sprintf("* Header fields (%d):", sseproto.DefaultMaxFields),
		fmt.Sprintf("* Body of a request for a stream (%d KiB):", sseproto.MaxBodyBytes>>10),
		fmt.Sprintf("* Requests over %d KiB that are not whole, or wait for the authorizer (%d MiB of memory, all together):", smallBytes>>10, f.large.most>>20),
		fmt.Sprintf("* Pipelining (%d KiB ahead of the answers):", maxBacklogBytes>>10),
	} {
		require.Contains(t, string(text), item)
	}
}
