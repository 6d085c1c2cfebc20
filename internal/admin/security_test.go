package admin

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What SECURITY.md says of bounds without a flag is what they are.
func TestSecurityTellsTheBoundsOfTheAdminListener(t *testing.T) {
	raw, err := os.ReadFile("../../SECURITY.md")
	require.NoError(t, err)
	text := strings.Join(strings.Fields(string(raw)), " ")
	for _, part := range []string{
		fmt.Sprintf("A batch has at most %d lines and %d MiB, and a page %d rows. %d clients may watch `/api/live`", maxBatchLines, maxBatchBytes>>20, maxLimit, maxLive),
		fmt.Sprintf("one that takes nothing for %s seconds is closed", map[float64]string{10: "ten"}[liveWriteTimeout.Seconds()]),
		fmt.Sprintf("The listener holds %s bodies of more than %d KiB, and %d connections, before a token is looked at", map[int]string{8: "eight"}[maxBodies], smallBody>>10, maxConnections),
	} {
		require.Contains(t, text, part)
	}
}
