package front

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMaximumAgeIsJittered(t *testing.T) {
	f := &Front{cfg: Config{MaxAge: time.Hour}}
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		age := time.Until(f.maxAge())
		least, most = min(least, age), max(most, age)
	}
	require.InDelta(t, 48, least.Minutes(), 1)
	require.InDelta(t, 60, most.Minutes(), 1)
	f.cfg.MaxAge = 0
	require.True(t, f.maxAge().IsZero())
}
