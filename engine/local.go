package engine

import (
	"time"

	"ssed/sseproto"
)

// localClock numbers messages in a process without Redis.
type localClock struct {
	ms  uint64
	seq uint64
}

// next returns an ID beyond all before.
func (c *localClock) next(now time.Time) sseproto.ID {
	if ms := uint64(now.UnixMilli()); ms > c.ms {
		c.ms, c.seq = ms, 0
	}
	c.seq++
	return sseproto.ID{Ms: c.ms, Seq: c.seq}
}

// OpenLocal starts the one span of a process without Redis: numbers come from
// the local clock, messages from Publish.
func (l *Log) OpenLocal() {
	l.mu.Lock()
	l.local.ms = uint64(max(time.Now().UnixMilli(), 1))
	low := sseproto.ID{Ms: l.local.ms}
	l.isLocal.Store(true)
	l.mu.Unlock()
	l.OpenSpan(low)
}

// Publish numbers a message, which has passed its Check, by the local clock, adds it
// and returns its ID. The strings are copied.
func (l *Log) Publish(channel string, m sseproto.Message) sseproto.ID {
	e := l.encode(&m)
	l.mu.Lock()
	defer l.unlock()
	id := l.local.next(time.Now())
	l.appendLocked(id, channel, &m, e)
	return id
}

// clock is the present on the clock that the IDs are from, in wire milliseconds, and not
// ahead of it: messages that come from now on are not older. With Redis that is the last
// tick. No lock: it is asked where a request is read.
func (l *Log) clock() uint64 {
	now := uint64(time.Now().UnixMilli())
	tick := l.ticked.Load().Ms
	if l.isDivided() {
		tick = slowestClock(*l.ticks.Load())
	}
	if tick == 0 || l.isLocal.Load() {
		return now
	}
	return tick
}

// slowestClock is the earliest of the last ticks of several partitions: an age that is counted
// from a later one would leave out what came at its beginning in a partition whose server has a
// slower clock. By more than answerMargin no clock is slower: such a partition has no ticks now,
// and would take an age back by as long. Zero: there was no tick.
func slowestClock(ticks []sseproto.ID) uint64 {
	newest := uint64(0)
	for _, id := range ticks {
		newest = max(newest, id.Ms)
	}
	slowest := newest
	for _, id := range ticks {
		if id.Ms+uint64(answerMargin/time.Millisecond) >= newest && !id.IsZero() {
			slowest = min(slowest, id.Ms)
		}
	}
	return slowest
}
