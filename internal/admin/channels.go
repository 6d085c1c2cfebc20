package admin

import "net/http"

// Channel is a channel on this instance.
type Channel struct {
	Channel     string  `json:"channel"`
	Subscribers int64   `json:"subscribers"`
	Messages    int     `json:"messages"` // in memory
	Rate        float64 `json:"rate"`     // messages per second, lately
	Newest      string  `json:"newest"`   // ID of the newest message in memory; "": none
	Policy      string  `json:"policy"`   // that holds for it, as --policy takes it; "": none
}

// ChannelOrder is what comes first in a list of channels.
type ChannelOrder string

// The orders, as the query names them.
const (
	BySubscribers ChannelOrder = "subscribers"
	ByRate        ChannelOrder = "rate"
)

// Spread is how a channel's streams are spread over the instances.
type Spread struct {
	Subscribers int64           `json:"subscribers"` // of those that answered
	Instances   []InstanceShare `json:"instances"`
	Asked       int             `json:"asked"`
	Answered    int             `json:"answered"` // less than asked: some did not answer in time
}

// InstanceShare is the part of one instance.
type InstanceShare struct {
	Instance    string `json:"instance"`
	Subscribers int64  `json:"subscribers"`
}

func (a *API) channels(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	limit, order := q.limit(defaultChannels), BySubscribers
	if text, ok := q.get("sort"); ok {
		if order = ChannelOrder(text); order != BySubscribers && order != ByRate {
			q.bad("sort", "must be subscribers or rate")
		}
	}
	if q.err != nil {
		fail(w, q.err)
		return
	}
	list, err := a.cfg.Channels.TopChannels(r.Context(), order, limit)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string][]Channel{"channels": orEmpty(list)})
}

func (a *API) channel(w http.ResponseWriter, r *http.Request) {
	name, err := channelInPath(r)
	if err != nil {
		fail(w, err)
		return
	}
	var answer struct {
		Channel
		Fleet *Spread `json:"fleet"` // null: there is one instance, or the others could not be asked
	}
	if answer.Channel, err = a.cfg.Channels.Channel(r.Context(), name); err != nil {
		fail(w, err)
		return
	}
	if a.cfg.Fleet != nil {
		if spread, err := a.cfg.Fleet.Subscribers(r.Context(), name); err == nil {
			spread.Instances = orEmpty(spread.Instances)
			answer.Fleet = &spread
		}
	}
	writeJSON(w, http.StatusOK, answer)
}
