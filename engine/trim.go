package engine

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// trimEvery is how often the trimmer looks.
	trimEvery = 5 * time.Second
	// trimAfter connections since the last time it has something to do: at some
	// 3 KB of garbage for each handshake that is 3 MB.
	trimAfter = 1000
	// trimQuiet connections a second at most count as quiet.
	trimQuiet = 20
)

// trim gives the memory of past handshakes back to the system once a storm of
// connects is over. The collector alone would keep it: idle connections
// allocate nothing, so nothing makes it run again. Measured with 15,000
// connections: 540 bytes of resident memory each without, see bench/ with.
func (e *Engine) trim(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var trimmed, last uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := e.front.Accepted()
		if now-trimmed >= trimAfter && now-last < trimQuiet*uint64(trimEvery/time.Second) {
			debug.FreeOSMemory()
			trimmed = now
		}
		last = now
	}
}
