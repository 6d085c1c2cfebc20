package engine

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"ssed/sseproto"
)

// ChannelOrder is what a list of channels is sorted by, the largest first.
type ChannelOrder uint8

// The orders.
const (
	BySubscribers ChannelOrder = iota
	ByRate
)

// ChannelInfo is what is known of a channel here.
type ChannelInfo struct {
	Channel     string
	Subscribers int64       // streams of this process
	Messages    int         // in the ring, as far as it is looked at: of a million and more only the newest
	Rate        float64     // messages a second over the last ten seconds, or less where the ring does not go back so far
	Newest      sseproto.ID // the last message in the ring; zero: none
}

const (
	// rateWindow is the stretch of time over which rates are measured.
	rateWindow = 10 * time.Second
	// leastWindow is what is left of it at least: IDs tell time in steps of a tick.
	leastWindow = 100 * time.Millisecond
	// maxTallied bounds the messages that are looked at for one answer, the newest ones,
	// some 10 ms: a ring of 64 MiB holds fewer. Beyond it the window is shorter, and
	// messages are counted up to it.
	maxTallied = 1 << 20
)

// Channel tells about one channel; nothing but its name when it has neither
// subscribers nor messages.
func (e *Engine) Channel(ctx context.Context, name string) (ChannelInfo, error) {
	info := ChannelInfo{Channel: name}
	index, ok := e.log.dir.find(name)
	if !ok {
		return info, ctx.Err()
	}
	err := e.log.inspect(ctx, func(t *tally) error {
		if found, ok := t.info(index); ok && found.Channel == name {
			info = found
		}
		return nil
	})
	return info, err
}

// TopChannels lists up to limit channels, 1 to 1000, the first ones in that order.
func (e *Engine) TopChannels(ctx context.Context, order ChannelOrder, limit int) (list []ChannelInfo, err error) {
	limit = min(max(limit, 1), maxListed)
	err = e.log.inspect(ctx, func(t *tally) error {
		list, err = t.top(ctx, order, limit)
		return err
	})
	return list, err
}

func (t *tally) top(ctx context.Context, order ChannelOrder, limit int) (list []ChannelInfo, err error) {
	t.count()
	ranked, err := t.rank(ctx, order, limit)
	for _, r := range ranked {
		if info, ok := t.info(r.index); ok {
			list = append(list, info)
		}
	}
	return list, err
}

// inspect calls look with a view of the ring in which names keep their meaning. One
// at a time; the log's lock is not held.
func (l *Log) inspect(ctx context.Context, look func(*tally) error) error {
	select {
	case l.inspecting <- struct{}{}:
		defer func() { <-l.inspecting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r := l.inspector
	r.cursor.Store(l.tail.Load()) // before the view, see ReadCommitted
	defer r.cursor.Store(noPosition)
	v := r.open()
	defer v.close()
	t := &tally{log: l, v: &v, limit: maxTallied}
	t.measure()
	return look(t)
}

// tally counts messages of the ring by channel.
type tally struct {
	log    *Log
	v      *view
	from   sseproto.ID // rates count what is beyond it
	over   time.Duration
	limit  int            // messages that are looked at
	counts []channelCount // by index, as far as there are messages; nil: not counted
}

// channelCount is what the ring holds of a channel.
type channelCount struct{ messages, recent uint32 }

func (n *channelCount) add(e *entry, from sseproto.ID) {
	n.messages++
	if from.Less(e.id) {
		n.recent++
	}
}

// isMessage: neither told by this instance nor a barrier.
func (e *entry) isMessage() bool { return e.kind == kindLive || e.kind == kindBackfill }

// of returns the count of a channel, from all or from its own messages.
func (t *tally) of(index uint32) channelCount {
	switch {
	case t.counts == nil:
		return t.countOne(index)
	case index < uint32(len(t.counts)):
		return t.counts[index]
	}
	return channelCount{}
}

// measure sets the window of rates: up to now, and as far back as the ring is whole.
func (t *tally) measure() {
	now := t.log.nowMs()
	t.from.Ms = now - min(now, uint64(rateWindow/time.Millisecond))
	for _, ln := range t.log.lines {
		if cov := ln.cover.Load(); cov.from != sseproto.MaxID && t.from.Less(cov.from) {
			t.from = cov.from
		}
	}
	if limit := uint64(t.limit); t.v.head-t.v.tail > limit {
		if e, _ := t.v.at(t.v.head - limit); t.from.Less(e.id) {
			t.from = e.id
		}
	}
	t.over = max(time.Duration(now-min(now, t.from.Ms))*time.Millisecond, leastWindow)
}

// nowMs is the present on the clock that the IDs are from.
func (l *Log) nowMs() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.local.ms != 0 {
		return max(l.spans.high.Ms, uint64(time.Now().UnixMilli()))
	}
	now := uint64(0)
	for _, ln := range l.lines {
		ms := ln.spans.high.Ms
		if !ln.heard.at.IsZero() {
			ms += uint64(time.Since(ln.heard.at) / time.Millisecond)
		}
		now = max(now, ms)
	}
	return now
}

// count counts the messages of every channel.
func (t *tally) count() {
	t.counts = make([]channelCount, chunkSize)
	for pos, left := t.v.head, t.limit; pos > t.v.tail && left > 0; pos, left = pos-1, left-1 {
		e, _ := t.v.at(pos - 1)
		if !e.isMessage() {
			continue
		}
		for uint32(len(t.counts)) <= e.ch {
			t.counts = append(t.counts, make([]channelCount, chunkSize)...)
		}
		t.counts[e.ch].add(e, t.from)
	}
}

// countOne follows a channel back through the ring.
func (t *tally) countOne(index uint32) (n channelCount) {
	left := t.limit
	t.v.walkBack(index, func(_ uint64, e *entry) bool {
		n.add(e, t.from)
		left--
		return left > 0
	})
	return n
}

// rankedChannel is a candidate for a list.
type rankedChannel struct {
	index, recent, subs uint32
	name                string
}

// compare orders by recent messages, where they are what counts, then by subscribers.
func (r rankedChannel) compare(b rankedChannel) int {
	return cmp.Or(cmp.Compare(b.recent, r.recent), cmp.Compare(b.subs, r.subs), strings.Compare(r.name, b.name))
}

// ranking keeps the first channels of those that it is given.
type ranking struct {
	limit int
	best  []rankedChannel
	last  *rankedChannel // of the first ones, when they are that many already
}

func (r *ranking) add(c rankedChannel) {
	if r.last == nil || c.compare(*r.last) < 0 {
		r.best = append(r.best, c)
	}
}

func (r *ranking) cut() {
	slices.SortFunc(r.best, rankedChannel.compare)
	if len(r.best) >= r.limit {
		r.best = r.best[:r.limit]
		last := r.best[r.limit-1]
		r.last = &last
	}
}

// rank returns the first channels.
func (t *tally) rank(ctx context.Context, order ChannelOrder, limit int) ([]rankedChannel, error) {
	first := ranking{limit: limit}
	for next := uint32(noChannel + 1); next != 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		next = t.log.dir.look(next, func(index uint32, ch *channel) {
			r := rankedChannel{index: index, subs: ch.subs, name: ch.name}
			if order == ByRate {
				r.recent = t.of(index).recent
			}
			first.add(r)
		})
		if len(first.best) > 2*maxListed {
			first.cut()
		}
	}
	first.cut()
	return first.best, nil
}

// info tells about a channel. Not ok: its record is gone.
func (t *tally) info(index uint32) (info ChannelInfo, ok bool) {
	if info.Channel, ok = t.log.dir.nameOf(index); !ok {
		return info, false
	}
	info.Subscribers = t.log.dir.subscribers(index)
	n := t.of(index)
	t.v.walkBack(index, func(_ uint64, e *entry) bool {
		info.Newest = e.id
		return false
	})
	info.Messages, info.Rate = int(n.messages), float64(n.recent)/t.over.Seconds()
	return info, true
}
