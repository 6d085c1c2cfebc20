package admin

import (
	"net/http"
	"strings"

	"ssed/sseproto"
)

// HistoryPage is a part of what is stored of a channel.
type HistoryPage struct {
	Channel string         `json:"channel"`
	Events  []HistoryEvent `json:"events"`
	Gaps    []HistoryGap   `json:"gaps"`
	Next    string         `json:"next"` // after of the next page; "": this was the last
}

// HistoryEvent is a stored message.
type HistoryEvent struct {
	ID          string `json:"id"`
	Event       string `json:"event"`
	Data        string `json:"data"`
	PublisherID string `json:"publisher_id,omitempty"`
	Retry       int64  `json:"retry,omitempty"` // milliseconds
}

// HistoryGap tells that messages after the position asked for are gone.
type HistoryGap struct {
	Reason string `json:"reason"`
	Oldest string `json:"oldest,omitempty"` // ID of the first that is left
}

// What a page of the history begins with. In both orders the next of a page is the after of
// the following one.
const orderOldest, orderNewest = "oldest", "newest"

var errNoHistory = Refuse(http.StatusNotFound, "no history is kept: this instance is embedded or has --history=off")

func (a *API) history(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	limit, after := q.limit(defaultHistory), sseproto.ID{}
	if text, ok := q.get("after"); ok {
		var err error
		// What follows the point is the partition, or the place in others: that of the channel is known.
		text, _, _ = strings.Cut(text, ".")
		if after, err = sseproto.ParseID(text); err != nil {
			q.bad("after", "must be an event ID")
		}
	}
	order := orderOldest
	if text, ok := q.get("order"); ok {
		if order = text; order != orderOldest && order != orderNewest {
			q.bad("order", "must be oldest or newest")
		}
	}
	channel, err := a.stored(r)
	if q.err != nil {
		err = q.err
	}
	if err != nil {
		fail(w, err)
		return
	}
	read := a.cfg.History.Page
	if order == orderNewest {
		read = a.cfg.History.PageBack
	}
	page, err := read(r.Context(), channel, after, limit)
	if err != nil {
		fail(w, err)
		return
	}
	page.Channel, page.Events, page.Gaps = channel, orEmpty(page.Events), orEmpty(page.Gaps)
	writeJSON(w, http.StatusOK, page)
}

func (a *API) deleteHistory(w http.ResponseWriter, r *http.Request) {
	channel, err := a.stored(r)
	if err == nil {
		err = a.cfg.History.Delete(r.Context(), channel)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// stored returns the channel whose history is meant, when there is one.
func (a *API) stored(r *http.Request) (channel string, err error) {
	if a.cfg.History == nil {
		return "", errNoHistory
	}
	return channelInPath(r)
}
