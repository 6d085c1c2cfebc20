//go:build e2e

package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// TestDocumentedBatchesArrive: the programs are run as they stand, but for the address.
func TestDocumentedBatchesArrive(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--batch-channel", "ssed:batch")
	programs := documentedPrograms(t, "Many messages at once")
	require.Len(t, programs, 3)
	for language, text := range programs {
		t.Run(language, func(t *testing.T) {
			var c collector
			l := newLink(t, in.public)
			startCurl(t, streamURL(l.host(), "user123", "channel_id", "user456"), c.show)
			l.waitStreams(1)
			runDocumented(t, language, text, r.Addr())
			c.want(t, "Hello!", "Grüße")
		})
	}
}
