package auth

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What SECURITY.md says of bounds without a flag is what they are.
func TestSecurityTellsTheBoundsOfAuth(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	require.NoError(t, err)
	require.EqualValues(t, 16, queueFactor)
	require.Contains(t, string(text), "Sixteen times as many requests wait")
	require.Equal(t, time.Second, denialTTL)
	require.Contains(t, string(text), "ssed remembers a denial for a second of it")
	g := newGate(64, 1)
	for g.mayEnterLocked(&line{inside: g.inside}) {
		g.inside++
	}
	require.Equal(t, 32, g.inside)
	require.Contains(t, string(text), "* Requests to the service for one address (half of them):")
}
