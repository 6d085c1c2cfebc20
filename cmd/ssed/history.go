package main

import (
	"context"
	"strings"

	"ssed/internal/admin"
	"ssed/rstore"
	"ssed/sseproto"
)

// storedHistory is the history for the admin listener, by partition.
type storedHistory []*rstore.Store

// of is the part that has the channel.
func (h storedHistory) of(channel string) *rstore.Store {
	if len(h) == 1 {
		return h[0]
	}
	return h[sseproto.PartitionOf(channel, len(h))]
}

// Page implements admin.History. From the zero position it begins with the oldest message
// that is left: what there was before is no gap.
func (h storedHistory) Page(ctx context.Context, channel string, after sseproto.ID, limit int) (admin.HistoryPage, error) {
	page := h.page(channel)
	page.fromStart = after.IsZero()
	next, err := h.of(channel).Page(ctx, channel, after, limit, &page)
	page.Next = page.text(next)
	return page.HistoryPage, err
}

// PageBack implements admin.History.
func (h storedHistory) PageBack(ctx context.Context, channel string, before sseproto.ID, limit int) (admin.HistoryPage, error) {
	page := h.page(channel)
	next, err := h.of(channel).PageBack(ctx, channel, before, limit, &page)
	page.Next = page.text(next)
	return page.HistoryPage, err
}

// Delete implements admin.History.
func (h storedHistory) Delete(ctx context.Context, channel string) error {
	return h.of(channel).Delete(ctx, channel)
}

// historyPage collects a page.
type historyPage struct {
	admin.HistoryPage
	text      func(sseproto.ID) string
	fromStart bool
}

func (h storedHistory) page(channel string) historyPage {
	return historyPage{text: func(id sseproto.ID) string { return eventText(channel, id, len(h)) }}
}

// Event implements sseproto.Replay.
func (p *historyPage) Event(_ int, id sseproto.ID, m sseproto.Message) {
	p.Events = append(p.Events, admin.HistoryEvent{
		ID: p.text(id), Event: strings.Clone(m.Event), Data: strings.Clone(m.Data),
		PublisherID: strings.Clone(m.ID), Retry: m.Retry.Milliseconds(),
	})
}

// Lost implements sseproto.Replay.
func (p *historyPage) Lost(_ int, reason string, oldest sseproto.ID) {
	if !p.fromStart {
		p.Gaps = append(p.Gaps, admin.HistoryGap{Reason: reason, Oldest: p.text(oldest)})
	}
}

// idText is "" for no position.
func idText(id sseproto.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
