package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"ssed/internal/admin"
	"ssed/rsub"
	"ssed/sseproto"
)

// publishTimeout bounds a request to publish in Redis mode.
const publishTimeout = 3 * time.Second

var errEnvelopeTooLarge = admin.Refuse(http.StatusRequestEntityTooLarge, "the message with its envelope is larger than --max-message-bytes")

// publish sends messages for the admin listener.
func (s *server) publish(ctx context.Context, messages []admin.Message) []admin.Receipt {
	if s.feed == nil {
		return s.publishHere(messages)
	}
	receipts := make([]admin.Receipt, len(messages))
	out, places := make([]rsub.Outgoing, 0, len(messages)), make([]int, 0, len(messages))
	for i, m := range messages {
		payload := s.payload(m)
		if len(payload) > s.cfg.maxMessageBytes {
			receipts[i].Err = errEnvelopeTooLarge
			continue
		}
		out, places = append(out, rsub.Outgoing{Channel: m.Channel, Payload: payload}), append(places, i)
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	sent, err := s.feed.PublishBatch(ctx, out)
	for k, i := range places {
		if k < len(sent) {
			receipts[i] = admin.Receipt{ID: sent[k].ID, Receivers: sent[k].Receivers}
		} else { // it may have been sent although the answer was lost
			receipts[i].Err = fmt.Errorf("not confirmed by Redis: %w", err)
		}
	}
	return receipts
}

// payload is what goes to Redis. With envelopes plain data that looks like one has
// one too.
func (s *server) payload(m admin.Message) string {
	if !s.cfg.engine.Envelope {
		return m.Data
	}
	return string(sseproto.AppendPayload(nil, m.Message))
}

// publishHere numbers by the clock of this process.
func (s *server) publishHere(messages []admin.Message) []admin.Receipt {
	receipts := make([]admin.Receipt, len(messages))
	for i, m := range messages {
		receipts[i] = admin.Receipt{Embedded: true, ID: s.engine.Log().Publish(m.Channel, m.Message)}
	}
	return receipts
}
