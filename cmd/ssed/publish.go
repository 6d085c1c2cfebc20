package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"ssed"
	"ssed/internal/admin"
)

// publishTimeout bounds a request to publish in Redis mode.
const publishTimeout = 3 * time.Second

var errEnvelopeTooLarge = admin.Refuse(http.StatusRequestEntityTooLarge, "the message with its envelope is larger than --max-message-bytes")

var errBatchChannel = admin.Refuse(http.StatusBadRequest, "the channel is that of --batch-channel: nobody can read it, POST /api/batch takes batches")

// publish sends messages for the admin listener.
func (s *server) publish(ctx context.Context, messages []admin.Message) []admin.Receipt {
	out := make([]ssed.OutMessage, len(messages))
	for i, m := range messages {
		out[i] = ssed.OutMessage{Channel: m.Channel, Message: m.Message}
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	receipts := make([]admin.Receipt, len(messages))
	for i, r := range s.gateway.PublishBatch(ctx, out) {
		receipts[i] = admin.Receipt{ID: r.ID, Receivers: r.Receivers, Err: r.Err, Embedded: s.Feeds == nil}
		switch { // the listener has looked at the rest
		case errors.Is(r.Err, ssed.ErrTooLarge): // without its envelope it was not
			receipts[i].Err = errEnvelopeTooLarge
		case errors.Is(r.Err, ssed.ErrReserved):
			receipts[i].Err = errBatchChannel
		}
	}
	return receipts
}
