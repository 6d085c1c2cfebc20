//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/internal/redistest"
	"ssed/rstore"
	"ssed/sseproto"
)

// BenchmarkHistoryWriter writes the history of an engine's log to a real Redis, in
// the batches that the program uses. An operation is 10,000 messages, from their
// commit to the watermark behind them.
func BenchmarkHistoryWriter(b *testing.B) {
	for _, channels := range []int{10, 1000} {
		for _, batch := range []int{100, 1000} {
			b.Run(fmt.Sprintf("channels=%d/batch=%d", channels, batch), func(b *testing.B) { writeHistory(b, channels, batch) })
		}
	}
}

func writeHistory(b *testing.B, channels, batch int) {
	const messages = 10_000
	r := redistest.Start(b)
	log := startEngine(b, engine.Config{}).Log()
	// The clock as the first tick leaves it, and a span that begins there.
	t := time.Now().UnixMilli()
	_, err := r.Do("HSET", "{sse:stream:}:clock", "epoch", "bench", "t", fmt.Sprint(t))
	require.NoError(b, err)
	log.OpenSpan(sseproto.ID{Ms: uint64(t)})
	store, err := rstore.New(rstore.Config{
		Client: clientOption(b, r), Prefix: "sse:stream:", Instance: "bench", BatchSize: batch, Logger: discard(),
	}, log)
	require.NoError(b, err)
	b.Cleanup(store.Close)
	runUntilEnd(b, func(ctx context.Context) error {
		if err := store.Run(ctx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	name := make([]string, channels)
	for i := range name {
		name[i] = fmt.Sprintf("channel-%d", i)
	}
	payload := strings.Repeat("x", 128)
	put := func(n int) {
		for i := range n {
			log.Append(sseproto.ID{Ms: uint64(t), Seq: uint64(i + 1)}, name[i%channels], payload)
		}
		t++
		committed := sseproto.ID{Ms: uint64(t)}
		log.Commit(committed, store.Watermark())
		eventually(b, "the history is written", func() bool { return !store.Watermark().Less(committed) })
	}
	put(1) // the writer takes its lease
	for b.Loop() {
		put(messages)
	}
	b.ReportMetric(float64(b.N*messages)/b.Elapsed().Seconds(), "msg/s")
	st := store.Stats()
	require.EqualValues(b, b.N*messages+1, st.Appended)
	require.Zero(b, st.RefusedMessages)
}
