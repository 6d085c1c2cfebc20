package main

import (
	"testing"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// Redis and all instances are replaced, and the new clock is behind the old one. The ID of
// a client lies ahead then, and no instance is quicker by so much: it is told at once.
// To wait for the clock would be to take for seen what comes meanwhile.
func TestIDOfAnotherRedisWithAnEarlierClockIsTold(t *testing.T) {
	t.Parallel()
	for _, behind := range []string{"-30s", "-5m"} {
		t.Run(behind, func(t *testing.T) {
			old := redistest.Start(t)
			in := startRedis(t, old)
			client := connect(t, in, "", "a")
			newPublisher(t, old).publish("a", "old")
			client.want("old")
			in.end()
			old.Stop()

			r := redistest.Start(t)
			in = startRedis(t, r, "--test-clock-offset="+behind)
			back := connect(t, in, client.lastID, "a")
			back.wantGap(sseproto.ReasonUnknownID)
			newPublisher(t, r).publish("a", "new")
			back.want("new")
		})
	}
}
