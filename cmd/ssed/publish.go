package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"ssed"
	"ssed/internal/admin"
	"ssed/sseproto"
)

// publishTimeout bounds a request to publish in Redis mode.
const publishTimeout = 3 * time.Second

var errEnvelopeTooLarge = admin.Refuse(http.StatusRequestEntityTooLarge, "the message with its envelope is larger than --max-message-bytes")

var errBatchChannel = admin.Refuse(http.StatusBadRequest, "the channel is that of --batch-channel: nobody can read it, POST /api/batch takes batches")

// position is what GET /api/position answers.
func (s *server) position() (id string, ok bool) {
	id, err := s.gateway.Place()
	return id, err == nil
}

// eventText is the ID of a message of a channel, as the API tells it; "" for none.
func (s *server) eventText(channel string, id sseproto.ID) string {
	return eventText(channel, id, max(len(s.Feeds), 1))
}

// eventText has the partition behind the ID where there are several.
func eventText(channel string, id sseproto.ID, partitions int) string {
	if id.IsZero() {
		return ""
	}
	return sseproto.EventIDOf(channel, id, partitions)
}

// publish sends messages for the admin listener.
func (s *server) publish(ctx context.Context, messages []admin.Message) []admin.PublishResult {
	out := make([]ssed.OutMessage, len(messages))
	for i, m := range messages {
		out[i] = ssed.OutMessage{Channel: m.Channel, Message: m.Message}
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	results := make([]admin.PublishResult, len(messages))
	for i, r := range s.gateway.PublishBatch(ctx, out) {
		results[i] = admin.PublishResult{ID: s.eventText(messages[i].Channel, r.ID), Receivers: r.Receivers, Err: r.Err, Embedded: s.Feeds == nil}
		switch { // the listener has looked at the rest
		case errors.Is(r.Err, ssed.ErrTooLarge): // without its envelope it was not
			results[i].Err = errEnvelopeTooLarge
		case errors.Is(r.Err, ssed.ErrReserved):
			results[i].Err = errBatchChannel
		}
	}
	return results
}
