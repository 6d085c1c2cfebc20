package engine

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What SECURITY.md says of bounds without a flag is what they are.
func TestSecurityTellsTheBoundsOfStreams(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	require.NoError(t, err)
	var w sweeper
	w.init(Config{}.withDefaults().Heartbeat)
	now := time.Unix(1_000_000, 0)
	untilNext := time.Unix(int64(w.over(now.Add(time.Second-1))), 0).Sub(now)
	for _, item := range []string{
		fmt.Sprintf("* `--max-connections` (limit of open files less %d):", ReservedFiles),
		fmt.Sprintf("* Data after a stream request (%d reads, each below %d KiB):", maxInputEvents, maxDiscard>>10),
		fmt.Sprintf("up to %s seconds with the default `--heartbeat`", map[float64]string{3: "three"}[math.Ceil(untilNext.Seconds())]),
	} {
		require.Contains(t, string(text), item)
	}
}
