package rstore

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/sseproto"
)

// This file judges what is lost. Redis may lose its data, or another node with less
// of them be asked, between any two pipelines. So every pipeline that reads entries
// asks for its own evidence: some of it in front of the entries, the rest behind them.

// maxSlack, and 1 % of the TTL if that is less, is how long a message may
// wait to be written while the key it goes to expires, without the loss
// going unnoticed. See streamState.lost.
const maxSlack = 10 * time.Second

// evidence is what the control keys say around one read of the entries of some
// channels. It is good for these entries only.
type evidence struct {
	ttl       time.Duration
	markers   []gap
	written   sseproto.ID
	lostData  bool      // Redis lost its data between the front and the back
	rejecting []stretch // per channel: where its stream refused messages, zero where it did not
	now       uint64    // ms, behind all that was read
}

// The commands of the evidence in front of the entries: what epoch and watermark
// promise is in the entries then.
const (
	frontClock = iota
	frontMarkers
	frontRejected
	frontCmds
)

// The commands behind the entries: what expired before they were read counts as
// expired, and an epoch that has changed tells that they are of two logs.
const (
	backTime = iota
	backEpoch
	backCmds
)

// evidenceFront returns the commands in front of the entries of the streams.
func (s *Store) evidenceFront(b rueidis.Builder, streams []string) rueidis.Commands {
	return rueidis.Commands{
		b.Hmget().Key(s.keys.Clock).Field("epoch", "watermark").Build(),
		b.Lrange().Key(s.keys.Gaps).Start(0).Stop(-1).Build(),
		b.Hmget().Key(s.keys.Rejected).Field(streams...).Build(),
	}
}

// evidenceBack returns the commands behind the entries.
func (s *Store) evidenceBack(b rueidis.Builder) rueidis.Commands {
	return rueidis.Commands{
		b.Time().Build(),
		b.Hget().Key(s.keys.Clock).Field("epoch").Build(),
	}
}

// parseEvidence reads the answers to both.
func (s *Store) parseEvidence(front, back []rueidis.RedisResult) (ev evidence, err error) {
	ev.ttl = s.cfg.TTL
	if ev.markers, err = parseMarkers(front[frontMarkers]); err != nil {
		return ev, err
	}
	clock, err := front[frontClock].AsStrSlice() // "" for what is not there
	if err != nil || len(clock) != 2 {
		return ev, errors.Join(errors.New("rstore: clock"), err)
	}
	if ev.written, err = parseWatermark(clock[1]); err != nil {
		return ev, err
	}
	epoch, err := optional(back[backEpoch].ToString())
	if err != nil {
		return ev, fmt.Errorf("rstore: epoch: %w", err)
	}
	ev.lostData = epoch != clock[0]
	if ev.rejecting, err = parseRejected(front[frontRejected]); err != nil {
		return ev, err
	}
	ev.now, err = parseTime(back[backTime])
	return ev, err
}

// lost tells why what channel i of the read has over (after, upTo] is not whole, ""
// when it is. St is the state of its stream, read behind its entries.
func (ev *evidence) lost(i int, st streamState, after, upTo sseproto.ID) string {
	for _, m := range ev.markers {
		if m.overlaps(after, upTo) {
			return m.reason
		}
	}
	if ev.rejecting[i].overlaps(after, upTo) {
		return sseproto.ReasonUnavailable
	}
	if reason := st.lost(after, ev.ttl, ev.now); reason != "" {
		return reason
	}
	if ev.lostData || ev.written.Less(upTo) && upTo != sseproto.MaxID {
		return sseproto.ReasonUnavailable
	}
	return ""
}

// lost tells what may be missing right after a position. A stream that still
// has an entry at or before it has everything since, but for what was deleted, and
// so has one that never had an entry after it.
//
// A key expires the TTL after its last message was written, which is the TTL
// after that message's ID or later. So messages after the position can have
// expired only when the TTL has passed between the position and now, or
// between the position and the first message of the stream that is there now.
// That message may have waited to be written while the old key expired, hence
// the slack.
func (st streamState) lost(after sseproto.ID, ttl time.Duration, now uint64) string {
	limit := uint64(max(1, ttl.Milliseconds()))
	switch {
	case st.trimmed(after):
		return sseproto.ReasonTrimmed
	case st.exists && (!after.Less(st.last) || st.length > 0 && !after.Less(st.first)):
		return ""
	case st.length > 0:
		now = min(now, st.first.Ms)
		limit -= uint64(min(maxSlack, ttl/100).Milliseconds())
	}
	if now > after.Ms && now-after.Ms > limit {
		return sseproto.ReasonExpired
	}
	return ""
}

// trimmed tells whether entries after the position were removed.
func (st streamState) trimmed(after sseproto.ID) bool {
	switch {
	case !st.exists || !after.Less(st.last):
		return false
	case after.Less(st.deleted):
		return true
	case st.length > 0 && !after.Less(st.first):
		return false
	}
	return st.added > st.length
}

// oldest is the first position left after the given one, as far as known.
func (st streamState) oldest(after sseproto.ID) sseproto.ID {
	if after.Less(st.first) {
		return st.first
	}
	return sseproto.ID{}
}

// parseMarkers reads the list of gap markers.
func parseMarkers(r rueidis.RedisResult) ([]gap, error) {
	list, err := r.AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("rstore: gap markers: %w", err)
	}
	markers := make([]gap, len(list))
	for i, text := range list {
		if markers[i], err = parseMarker(text); err != nil {
			return nil, err
		}
	}
	return markers, nil
}

// parseRejected reads, of each stream, where it refused messages.
func parseRejected(r rueidis.RedisResult) ([]stretch, error) {
	list, err := r.AsStrSlice() // "" for a stream that never did
	if err != nil {
		return nil, fmt.Errorf("rstore: rejected streams: %w", err)
	}
	out := make([]stretch, len(list))
	for i, text := range list {
		if text == "" {
			continue
		}
		if out[i], _, err = parseStretch(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// optional takes what is not there for "".
func optional(text string, err error) (string, error) {
	if rueidis.IsRedisNil(err) {
		return "", nil
	}
	return text, err
}

// parseWatermark reads the field of the clock; none stands for 0-0.
func parseWatermark(text string) (mark sseproto.ID, err error) {
	if text == "" {
		return mark, nil
	}
	if mark, err = sseproto.ParseID(text); err != nil {
		return mark, fmt.Errorf("rstore: watermark %q: %w", text, err)
	}
	return mark, nil
}

// parseTime reads the answer to TIME, as milliseconds.
func parseTime(r rueidis.RedisResult) (uint64, error) {
	f, err := r.AsStrSlice()
	if err != nil || len(f) != 2 {
		return 0, errors.Join(errors.New("rstore: time of redis"), err)
	}
	sec, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("rstore: time of redis: %w", err)
	}
	usec, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("rstore: time of redis: %w", err)
	}
	return sec*1000 + usec/1000, nil
}
