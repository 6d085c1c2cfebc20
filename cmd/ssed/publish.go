package main

import (
	"context"
	"fmt"
	"time"

	"ssed/internal/admin"
	"ssed/rsub"
)

// publishTimeout bounds a request to publish in Redis mode.
const publishTimeout = 3 * time.Second

// publish sends messages for the admin listener.
func (s *server) publish(ctx context.Context, messages []admin.Message) []admin.Receipt {
	if s.feed == nil {
		return s.publishHere(messages)
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	out := make([]rsub.Outgoing, len(messages))
	for i, m := range messages {
		out[i] = rsub.Outgoing{Channel: m.Channel, Payload: m.Data}
	}
	sent, err := s.feed.PublishBatch(ctx, out)
	receipts := make([]admin.Receipt, len(messages))
	for i := range receipts {
		if i < len(sent) {
			receipts[i] = admin.Receipt{ID: sent[i].ID, Receivers: sent[i].Receivers}
		} else { // it may have been sent although the answer was lost
			receipts[i].Err = fmt.Errorf("not confirmed by Redis: %w", err)
		}
	}
	return receipts
}

// publishHere numbers by the clock of this process.
func (s *server) publishHere(messages []admin.Message) []admin.Receipt {
	receipts := make([]admin.Receipt, len(messages))
	for i, m := range messages {
		receipts[i] = admin.Receipt{Embedded: true, ID: s.engine.Log().Publish(m.Channel, m.Data)}
	}
	return receipts
}
