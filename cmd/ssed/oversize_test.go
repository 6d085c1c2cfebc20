package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// Whoever reads a channel is told of a message over --max-message-bytes, in its place, on
// every instance, and when it comes back too: from memory and from the history.
func TestMessageThatIsTooLargeIsToldOnAllInstances(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	limit := []string{"--max-message-bytes", "100"}
	one, two := startRedis(t, r, limit...), startRedis(t, r, limit...)
	p := newPublisher(t, r)
	live := []*eventStream{connect(t, one, "", "a"), connect(t, two, "", "a")}
	p.publish("a", "before")
	p.publish("a", strings.Repeat("x", 101))
	p.publish("a", "after")
	var first, place string
	for _, s := range live {
		s.want("before")
		first = s.lastID
		gap := s.wantGap(sseproto.ReasonOversize)
		require.JSONEq(t, `{"reason":"oversize","channel":"a"}`, gap.data)
		if place != "" {
			require.Equal(t, place, gap.id, "the same place")
		}
		place = gap.id
		s.want("after")
	}
	for _, in := range []*instance{one, two} {
		s := connect(t, in, first, "a")
		s.wantGap(sseproto.ReasonOversize)
		s.want("after")
		connect(t, in, place, "a").want("after")
	}
	one.eventually("the history has it", func() bool {
		n, err := r.Do("XLEN", "sse:stream:a")
		return err == nil && n == int64(3)
	})
	fresh := startRedis(t, r, limit...)
	s := connect(t, fresh, first, "a")
	require.Equal(t, place, s.wantGap(sseproto.ReasonOversize).id)
	s.want("after")
}
