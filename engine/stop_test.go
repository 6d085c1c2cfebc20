package engine

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// deafHistory does not notice that it should stop.
type deafHistory struct {
	*memoryHistory
	reading, finish chan struct{}
}

func (h deafHistory) Range(context.Context, []string, sseproto.ID, sseproto.ID, sseproto.Replay) error {
	close(h.reading)
	<-h.finish
	return context.Canceled
}

func (h deafHistory) Merge(ctx context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (sseproto.ID, error) {
	return mergeRange(ctx, h.Range, channels, from, after, upTo, limit, r)
}

func TestRunWaitsForReadersOfTheHistory(t *testing.T) {
	h := deafHistory{newMemoryHistory(), make(chan struct{}), make(chan struct{})}
	e, err := New(Config{
		Listen: []string{"127.0.0.1:0"}, Shards: 2, History: h, Drain: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	c := join(t, e, after(sseproto.ID{Ms: 800}), "a")
	<-h.reading
	cancel()
	require.Empty(t, c.ended())
	require.Empty(t, ended, "a reader is still at work")
	close(h.finish)
	require.NoError(t, <-ended)
	require.Zero(t, e.conns.Load())
}

func TestAttachmentThatComesDuringTheDrainIsClosed(t *testing.T) {
	deciding, closing, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	e, err := New(Config{
		Listen: []string{"127.0.0.1:0"}, Shards: 2, History: newMemoryHistory(), Drain: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Authorizer: authorizer(func(ctx context.Context, _ *AuthRequest) (Grant, error) {
			close(deciding)
			<-ctx.Done() // the drain is over, the front closes and waits for this decision
			close(closing)
			<-finish
			return Grant{}, ctx.Err()
		}),
		AuthTimeout: time.Hour,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	wiretest.Dial(t, "tcp", e.Addrs()[0].String(), "").Send(getStream("a"))
	<-deciding
	cancel()
	<-closing
	c := join(t, e, after(sseproto.ID{Ms: 800}), "a")
	close(finish)
	require.NoError(t, <-ended)
	c.ended()
	require.Zero(t, e.conns.Load())
	require.Empty(t, e.replayer.asked)
}
