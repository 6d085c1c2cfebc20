package rstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"ssed/sseproto"
)

// This file judges what is lost. Redis may lose its data, or another node with less
// of them be asked, between any two pipelines. So every pipeline that reads entries
// asks for its own evidence: some of it in front of the entries, the rest behind them.
//
// What is not in a stream was perhaps never there, or it expired, was evicted, trimmed
// or deleted. The log itself says from where on absence proves that nothing was there:
// the horizon. No clock of this process and no setting of it has a part in that.

// evidence is what the control keys say around one read of the entries of some
// channels. It is good for these entries only.
type evidence struct {
	markers   []gap
	written   sseproto.ID
	lostData  bool      // Redis lost its data between the front and the back
	rejecting []stretch // per channel: where its stream refused messages, zero where it did not

	// A stream that has nothing at or before a position below one of these may have
	// lost what was behind it. Expired is for all channels, keeping tells more of each.
	expired, evicted sseproto.ID
	keeping          keeping
	latest           uint64 // the greatest time that Redis or a tick has shown, in ms
}

// The commands of the evidence in front of the entries: what epoch and watermark
// promise is in the entries then.
const (
	frontClock = iota
	frontMarkers
	frontRejected
	frontRejectedKey
	frontCmds
)

// The commands behind the entries, so that they know of all that went away before the
// entries were read. INFO takes Redis 5.4 µs, a small resume 120 µs. The number of evicted keys is asked for behind the one that the
// clock knows: then they differ when a key was evicted in between.
const (
	backTime = iota
	backClock
	backInfo
	backCmds
)

// Fields of the clock, and their places in the answers.
var (
	frontFields = []string{"epoch", "watermark", "gaps_to", "holes_to"}
	backFields  = []string{
		"epoch", "watermark", "t", "ttl", "horizon", "horizon_mark",
		"evicted", "evicted_node", "evicted_to",
		"policies", "policies_mark", "policy_floors",
	}
)

// evidenceFront returns the commands in front of the entries of the streams.
func (s *Store) evidenceFront(b rueidis.Builder, streams []string) rueidis.Commands {
	return rueidis.Commands{
		b.Hmget().Key(s.keys.Clock).Field(frontFields...).Build(),
		b.Lrange().Key(s.keys.Gaps).Start(0).Stop(-1).Build(),
		b.Hmget().Key(s.keys.Rejected).Field(streams...).Build(),
		b.Exists().Key(s.keys.Rejected).Build(),
	}
}

// evidenceBack returns the commands behind the entries.
func (s *Store) evidenceBack(b rueidis.Builder) rueidis.Commands {
	return rueidis.Commands{
		b.Time().Build(),
		b.Hmget().Key(s.keys.Clock).Field(backFields...).Build(),
		b.Info().Section("server", "stats").Build(),
	}
}

// parseEvidence reads the answers to both.
func parseEvidence(front, back []rueidis.RedisResult) (ev evidence, err error) {
	before, err := parseClock(front[frontClock], frontFields)
	if err != nil {
		return ev, err
	}
	if ev.markers, err = parseMarkers(front[frontMarkers], before); err != nil {
		return ev, err
	}
	if ev.rejecting, err = parseRejected(front[frontRejected], front[frontRejectedKey], before); err != nil {
		return ev, err
	}
	if ev.written, err = before.position("watermark"); err != nil {
		return ev, err
	}
	clock, err := parseClock(back[backClock], backFields)
	if err != nil {
		return ev, err
	}
	ev.lostData = clock["epoch"] != before["epoch"]
	now, err := parseTime(back[backTime])
	if err != nil {
		return ev, err
	}
	if err := ev.takeRetention(clock, now); err != nil {
		return ev, err
	}
	info, err := back[backInfo].ToString()
	if err != nil {
		return ev, fmt.Errorf("rstore: info: %w", err)
	}
	ev.evicted, err = clock.evicted(infoField(info, "run_id"), infoField(info, "evicted_keys"))
	return ev, err
}

// clock is fields of the clock hash by name, "" for what is not there.
type clock map[string]string

func parseClock(r rueidis.RedisResult, fields []string) (clock, error) {
	list, err := r.AsStrSlice()
	if err != nil || len(list) != len(fields) {
		return nil, errors.Join(errors.New("rstore: clock"), err)
	}
	c := make(clock, len(list))
	for i, name := range fields {
		c[name] = list[i]
	}
	return c, nil
}

// position reads a field; none stands for 0-0.
func (c clock) position(name string) (id sseproto.ID, err error) {
	if c[name] == "" {
		return id, nil
	}
	if id, err = sseproto.ParseID(c[name]); err != nil {
		return id, fmt.Errorf("rstore: %s of the clock: %w", name, err)
	}
	return id, nil
}

// number reads a field; none stands for 0.
func (c clock) number(name string) (n uint64, err error) {
	if c[name] == "" {
		return 0, nil
	}
	if n, err = strconv.ParseUint(c[name], 10, 64); err != nil {
		return 0, fmt.Errorf("rstore: %s of the clock: %w", name, err)
	}
	return n, nil
}

// takeRetention reads how long messages are kept.
func (ev *evidence) takeRetention(c clock, now uint64) (err error) {
	t, err := c.number("t")
	if err != nil {
		return err
	}
	ev.latest = max(now, t)
	if c["policies"] == "" {
		ev.expired, err = c.expired(ev.latest)
		return err
	}
	if c["policies_mark"] != c["watermark"] { // one of an older version writes, see expired
		if ev.expired, err = c.position("watermark"); err != nil {
			return err
		}
	}
	ev.keeping, err = parseKeeping(c["policies"], c["policy_floors"])
	return err
}

// expired returns the horizon: up to there messages may have expired with their key. A
// key expires the ttl after its last message was written or later, so at a time beyond
// the ttl after every ID in it. That time was at most the present one, or the greatest
// t, if the clock has gone back since.
//
// The ttl is that of what was written above the horizon of the clock, if the writers
// all noted theirs. One of an older version does not: then nothing is known of what
// is written.
func (c clock) expired(latest uint64) (sseproto.ID, error) {
	written, err1 := c.position("watermark")
	horizon, err2 := c.position("horizon")
	ttl, err3 := c.number("ttl")
	if err := errors.Join(err1, err2, err3); err != nil {
		return horizon, err
	}
	if c["ttl"] == "" || c["horizon_mark"] != c["watermark"] {
		return written, nil
	}
	if latest > ttl {
		return later(horizon, sseproto.ID{Ms: latest - ttl}), nil
	}
	return horizon, nil
}

// evicted returns up to where keys may have been evicted. The clock knows up to the
// last tick. If the server has evicted since, it may be anything that is written; so if it
// is another one than at that tick, as it does not know what the other one did since.
func (c clock) evicted(node, count string) (sseproto.ID, error) {
	to, err := c.position("evicted_to")
	if err != nil {
		return to, err
	}
	known := c["evicted_node"] == node && c["evicted"] == count
	never := c["evicted_node"] == "" && count == "0" // no tick has looked yet
	if known || never {
		return to, nil
	}
	written, err := c.position("watermark")
	return later(to, written), err
}

// infoField takes a field out of the answer to INFO.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimRight(value, "\r\n")
		}
	}
	return ""
}

func later(a, b sseproto.ID) sseproto.ID {
	if a.Less(b) {
		return b
	}
	return a
}

// lost tells why what channel i of the read has over (after, upTo] is not whole, ""
// when it is. St is the state of its stream, read behind its entries. What was
// trimmed comes first: it lies right behind the position, and an outage that is in
// the range too may lie anywhere.
func (ev *evidence) lost(i int, channel string, st streamState, after, upTo sseproto.ID) string {
	absent, unkept, off := ev.keeping.of(channel, ev.latest)
	if off || after.Less(unkept) {
		return sseproto.ReasonNotKept
	}
	if st.trimmed(after) {
		return sseproto.ReasonTrimmed
	}
	for _, m := range ev.markers {
		if m.overlaps(after, upTo) {
			return m.reason
		}
	}
	switch {
	case ev.rejecting[i].overlaps(after, upTo):
		return sseproto.ReasonUnavailable
	case st.wholeSince(after):
	case after.Less(later(ev.expired, absent)):
		return sseproto.ReasonExpired
	case after.Less(ev.evicted):
		return sseproto.ReasonEvicted
	case st.torn(after, upTo):
		return sseproto.ReasonTrimmed // by somebody who deleted the key
	}
	if ev.lostData || ev.written.Less(upTo) && upTo != sseproto.MaxID {
		return sseproto.ReasonUnavailable
	}
	return ""
}

// wholeSince tells whether the key was never away since the position, so that the
// stream has everything behind it but for what was trimmed or deleted: it still has an
// entry at or before the position, or never had one behind it. Or the first entry tells
// that its channel had nothing since the position.
func (st streamState) wholeSince(after sseproto.ID) bool {
	return st.exists && (!after.Less(st.last) || st.length > 0 && !after.Less(st.first) || st.joins(after))
}

// joins tells whether the first entry is the channel's next message behind the position.
func (st streamState) joins(after sseproto.ID) bool { return st.known && st.before < after.Ms }

// torn tells whether the channel had a message between the position and the first entry.
func (st streamState) torn(after, upTo sseproto.ID) bool {
	return st.known && after.Ms < st.before && st.before <= upTo.Ms
}

// trimmed tells whether entries after the position were removed.
func (st streamState) trimmed(after sseproto.ID) bool {
	switch {
	case !st.exists || !after.Less(st.last):
		return false
	case after.Less(st.deleted):
		return true
	case st.length > 0 && (!after.Less(st.first) || st.joins(after)):
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

// parseMarkers reads the list of gap markers. The oldest one of a log begins at 0-0. If
// it is not there, the list was evicted or deleted, and the clock knows how far the
// markers in it went.
func parseMarkers(r rueidis.RedisResult, c clock) ([]gap, error) {
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
	if len(markers) > 0 && markers[0].from.IsZero() {
		return markers, nil
	}
	reach, err := c.position("gaps_to")
	return append(markers, gap{stretch{to: reach}, sseproto.ReasonOutage}), err
}

// parseRejected reads, of each stream, where it refused messages. If the key of these
// notes is not there, it was evicted or deleted, or there never was one: the clock
// knows how far they went.
func parseRejected(r, key rueidis.RedisResult, c clock) ([]stretch, error) {
	list, err := r.AsStrSlice() // "" for a stream that never did
	there, err2 := key.AsInt64()
	reach, err3 := c.position("holes_to")
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, fmt.Errorf("rstore: rejected streams: %w", err)
	}
	out := make([]stretch, len(list))
	for i, text := range list {
		switch {
		case there == 0:
			out[i].to = reach
		case text != "":
			if out[i], _, err = parseStretch(text); err != nil {
				return nil, err
			}
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
func parseWatermark(text string) (watermark sseproto.ID, err error) {
	if text == "" {
		return watermark, nil
	}
	if watermark, err = sseproto.ParseID(text); err != nil {
		return watermark, fmt.Errorf("rstore: watermark %q: %w", text, err)
	}
	return watermark, nil
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
