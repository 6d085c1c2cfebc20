package rstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/sseproto"
)

const (
	// Channels per pipeline: it starts small and grows while the answers are,
	// so that large payloads do not add up before their size is known.
	minChunk, maxChunk = 64, 512
	// chunkBytes of answers make the next pipeline smaller.
	chunkBytes = 8 << 20
	// maxPage is the most entries asked of one channel at once.
	maxPage = 1024
	// pageStep is the most entries that Page asks for at once, for the same reason.
	pageStep = 64
	// readTries: a pooled connection may have been cut while idle, which is
	// noticed by using it.
	readTries = 3
	// maxSlack, and 1 % of the TTL if that is less, is how long a message may
	// wait to be written while the key it goes to expires, without the loss
	// going unnoticed. See streamState.lost.
	maxSlack = 10 * time.Second
)

// Range reports the stored events of the channels with after < id ≤ upTo,
// ascending, and what is lost in that range: at most one Lost per channel, before
// its events. (When a channel has more than a page of events and is trimmed
// while they are read, a Lost comes between them.)
//
// When the history has not reached upTo yet, or the node that was asked lags,
// every channel has lost something: sseproto.ReasonUnavailable. Wait for the
// watermark first. An upTo of sseproto.MaxID asks for what there is.
//
// After an error r may have been called for part. Memory is bounded by a
// pipeline of up to 512 channels. Safe for concurrent use.
func (s *Store) Range(ctx context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error {
	if len(channels) == 0 || !after.Less(upTo) {
		return nil
	}
	q := rangeQuery{Store: s, after: after, upTo: upTo, replay: r}
	size := minChunk
	for start := 0; start < len(channels); {
		n := min(size, len(channels)-start)
		v, err := q.look(ctx, channels[start:start+n], after)
		if errors.Is(err, errTooSlow) && n > 1 {
			size = max(1, n/8)
			continue
		}
		if err != nil {
			return err
		}
		// From here on r has been called: what fails now ends the read.
		if err := q.tell(ctx, start, v); err != nil {
			return err
		}
		start += n
		switch {
		case q.bytes > chunkBytes:
			size = max(1, size/2)
		case q.bytes < chunkBytes/4:
			size = min(size*2, maxChunk)
		}
	}
	return nil
}

// Page reports up to limit stored events of a channel after a position, fewer when they
// are large (after 8 MiB of data it ends with the read at hand), and what is
// lost behind it, as Range does. Next is the position of the last event read when there
// may be more, else zero. Safe for concurrent use.
func (s *Store) Page(ctx context.Context, channel string, after sseproto.ID, limit int, r sseproto.Replay) (next sseproto.ID, err error) {
	if limit < 1 || !after.Less(sseproto.MaxID) {
		return next, nil
	}
	q := rangeQuery{Store: s, after: after, upTo: sseproto.MaxID, replay: r, paged: true, left: limit}
	v, err := q.look(ctx, []string{channel}, after)
	if err == nil {
		err = q.tell(ctx, 0, v)
	}
	return q.next, err
}

// rangeQuery is one call of Range or Page.
type rangeQuery struct {
	*Store
	after, upTo sseproto.ID
	paged       bool        // a call of Page: one channel
	left        int         // events that the page still takes
	next        sseproto.ID // where a page that is full ends
	replay      sseproto.Replay
	bytes       int // of data in the last chunk
}

// view is what one pipeline tells of some channels after a position, with what it takes
// to judge whether that is all: Redis may lose its data, or another node with less of
// them be asked, between any two.
type view struct {
	channels []string
	after    sseproto.ID
	marker   string // reason of a gap marker in the range, "" without one
	behind   bool   // the watermark is below the end, or Redis lost its data meanwhile
	holes    []rueidis.RedisMessage
	pages    []rueidis.RedisResult // two for each channel, see pageCmds
	now      uint64                // ms, behind all that was read
}

// Commands in front of the channels' own: epoch and watermark before the entries, so
// that what they promise is in them. Behind them the clock, so that what expired before
// they were read counts as expired, and the epoch again: others are served in between.
const (
	cmdMark = iota
	cmdMarkers
	cmdHoles
	cmdFirst

	cmdTime  = -2 // from the end
	cmdEpoch = -1
	cmdsLast = 2
)

// look reads a page of each channel.
func (q *rangeQuery) look(ctx context.Context, channels []string, after sseproto.ID) (v view, err error) {
	keys := make([]string, len(channels))
	for i, ch := range channels {
		keys[i] = q.keys.prefix + ch
	}
	res, err := q.ask(ctx, func(b rueidis.Builder) rueidis.Commands {
		cmds := make(rueidis.Commands, 0, cmdFirst+2*len(keys)+cmdsLast)
		cmds = append(cmds,
			b.Hmget().Key(q.keys.clock).Field("epoch", "watermark").Build(),
			b.Lrange().Key(q.keys.gaps).Start(0).Stop(-1).Build(),
			b.Hmget().Key(q.keys.holes).Field(keys...).Build())
		for _, key := range keys {
			cmds = append(cmds, q.pageCmds(b, key, after)...)
		}
		return append(cmds, b.Time().Build(), b.Hget().Key(q.keys.clock).Field("epoch").Build())
	})
	if err != nil {
		return v, err
	}
	end := len(res)
	v = view{channels: channels, after: after, pages: res[cmdFirst : end-cmdsLast]}
	if v.marker, err = q.marker(res[cmdMarkers], after); err != nil {
		return v, err
	}
	if v.behind, err = q.behind(res[cmdMark], res[end+cmdEpoch]); err != nil {
		return v, err
	}
	if v.holes, err = res[cmdHoles].ToArray(); err != nil {
		return v, fmt.Errorf("rstore: holes: %w", err)
	}
	v.now, err = parseTime(res[end+cmdTime])
	return v, err
}

// tell reports a view. Base is the index of its first channel.
func (q *rangeQuery) tell(ctx context.Context, base int, v view) error {
	q.bytes = 0
	for i := range v.channels {
		if err := q.channel(ctx, base+i, i, v); err != nil {
			return err
		}
	}
	return nil
}

// pageCmds ask for entries first and the state of the stream then: what is
// trimmed between the two is taken for lost, never the other way round.
func (q *rangeQuery) pageCmds(b rueidis.Builder, key string, after sseproto.ID) []rueidis.Completed {
	return []rueidis.Completed{
		b.Xrange().Key(key).Start(next(after).String()).End(q.upTo.String()).Count(q.page()).Build(),
		b.XinfoStream().Key(key).Build(),
	}
}

// page holds what a channel normally has: MAXLEN ~ n leaves up to n and a node.
func (q *rangeQuery) page() int64 {
	if q.paged {
		return int64(min(q.left, pageStep))
	}
	return int64(min(2*q.cfg.MaxLen+100, maxPage))
}

// errTooSlow: the pipeline was not answered within ConnWriteTimeout, which
// holds for all of it. Over a slow line a smaller one may get through.
var errTooSlow = errors.New("rstore: no answer in time")

// Written asks Redis how far the history is written. Safe for concurrent use.
func (s *Store) Written(ctx context.Context) (sseproto.ID, error) {
	res, err := s.ask(ctx, func(b rueidis.Builder) rueidis.Commands {
		return rueidis.Commands{b.Hget().Key(s.keys.clock).Field("watermark").Build()}
	})
	if err != nil {
		return sseproto.ID{}, err
	}
	text, err := optional(res[0].ToString())
	if err != nil {
		return sseproto.ID{}, fmt.Errorf("rstore: watermark: %w", err)
	}
	return parseWatermark(text)
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

// ask sends a pipeline of reads, again when the connection was cut.
func (s *Store) ask(ctx context.Context, build func(rueidis.Builder) rueidis.Commands) (res []rueidis.RedisResult, err error) {
	for range readTries {
		var c rueidis.Client
		if c, err = s.read.get(ctx); err != nil {
			break
		}
		res = c.DoMulti(ctx, build(c.B())...)
		err = nil
		for _, r := range res {
			if err = r.NonRedisError(); err != nil {
				break
			}
		}
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, fmt.Errorf("%w: %w", errTooSlow, err)
		}
	}
	return nil, fmt.Errorf("rstore: reading the history: %w", err)
}

// marker tells the reason of the first gap marker in the rest of the range.
func (q *rangeQuery) marker(markers rueidis.RedisResult, after sseproto.ID) (reason string, err error) {
	list, err := markers.AsStrSlice()
	if err != nil {
		return "", fmt.Errorf("rstore: gap markers: %w", err)
	}
	for _, text := range list {
		m, err := parseMarker(text)
		if err != nil {
			return "", err
		}
		if m.overlaps(after, q.upTo) {
			return m.reason, nil
		}
	}
	return "", nil
}

// behind reads the clock of before and the epoch of after the entries.
func (q *rangeQuery) behind(before, epoch rueidis.RedisResult) (bool, error) {
	clock, err := before.AsStrSlice() // "" for what is not there
	if err != nil || len(clock) != 2 {
		return false, errors.Join(errors.New("rstore: clock"), err)
	}
	written, err := parseWatermark(clock[1])
	if err != nil {
		return false, err
	}
	after, err := optional(epoch.ToString())
	if err != nil {
		return false, fmt.Errorf("rstore: epoch: %w", err)
	}
	return after != clock[0] || written.Less(q.upTo) && q.upTo != sseproto.MaxID, nil
}

// channel reports one channel: number i of the view, and the pages that follow, each of
// which is judged for itself. That something is lost is told once.
func (q *rangeQuery) channel(ctx context.Context, ch, i int, v view) error {
	for told := false; ; i = 0 {
		if errorCode(v.pages[2*i].Error()) == "WRONGTYPE" {
			if !told {
				q.replay.Lost(ch, sseproto.ReasonUnavailable, sseproto.ID{})
			}
			return nil
		}
		list, err := v.pages[2*i].ToArray()
		if err != nil {
			return fmt.Errorf("rstore: xrange: %w", err)
		}
		if !told {
			if told, err = q.judge(ch, i, v); err != nil {
				return err
			}
		}
		cursor := v.after
		for k := range list {
			if cursor, err = q.event(ch, &list[k]); err != nil {
				return err
			}
		}
		if int64(len(list)) < q.page() || !cursor.Less(q.upTo) {
			return nil
		}
		if q.left -= len(list); q.paged && (q.left == 0 || q.bytes >= chunkBytes) {
			q.next = cursor
			return nil
		}
		if v, err = q.look(ctx, v.channels[i:i+1], cursor); err != nil {
			return err
		}
	}
}

// judge reports whether something of a channel is lost, to the replay too.
func (q *rangeQuery) judge(ch, i int, v view) (lost bool, err error) {
	st, err := parseState(v.pages[2*i+1])
	if err != nil {
		return false, err
	}
	hole, err := optional(v.holes[i].ToString())
	if err != nil {
		return false, fmt.Errorf("rstore: holes: %w", err)
	}
	reason, err := q.reason(st, hole, v)
	if err != nil {
		return false, err
	}
	if reason == "" && !st.exists && q.after.Less(v.after) {
		reason = sseproto.ReasonTrimmed // it was there for the page before
	}
	if reason != "" {
		q.replay.Lost(ch, reason, st.oldest(v.after))
	}
	return reason != "", nil
}

// reason tells why what follows is not whole, "" when it is.
func (q *rangeQuery) reason(st streamState, hole string, v view) (string, error) {
	if v.marker != "" {
		return v.marker, nil
	}
	if hole != "" {
		h, _, err := parseStretch(hole)
		if err != nil {
			return "", err
		}
		if h.overlaps(v.after, q.upTo) {
			return sseproto.ReasonUnavailable, nil
		}
	}
	reason := st.lost(v.after, q.cfg.TTL, v.now)
	if reason == "" && v.behind {
		reason = sseproto.ReasonUnavailable
	}
	return reason, nil
}

// event reports one entry and returns its ID. Entries without data are others'.
func (q *rangeQuery) event(ch int, entry *rueidis.RedisMessage) (id sseproto.ID, err error) {
	pair, err := entry.ToArray()
	if err != nil || len(pair) != 2 {
		return id, errors.Join(errEntry, err)
	}
	if id, err = messageID(&pair[0]); err != nil {
		return id, err
	}
	fields, err := pair[1].ToArray()
	if err != nil {
		return id, errors.Join(errEntry, err)
	}
	m, found, err := messageOf(fields)
	if err != nil {
		return id, err
	}
	if found {
		q.bytes += len(m.Data)
		q.replay.Event(ch, id, m)
	}
	return id, nil
}

// messageOf reads the fields of an entry; not found: it has no data. Somebody else
// may have written it: a retry that is no time is none, and a type that only ssed
// may use counts as none. An id or a type that is not allowed does no harm in
// sseproto.AppendEvent.
func messageOf(fields []rueidis.RedisMessage) (m sseproto.Message, found bool, err error) {
	m.Event = sseproto.EventMessage
	for i := 0; i+1 < len(fields); i += 2 {
		name, err := fields[i].ToString()
		if err != nil {
			return m, false, errors.Join(errEntry, err)
		}
		value, err := fields[i+1].ToString()
		if err != nil {
			return m, false, errors.Join(errEntry, err)
		}
		switch name {
		case "data":
			m.Data, found = value, true
		case "event_type":
			m.Event = value
		case "id":
			m.ID = value
		case "retry":
			if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
				m.Retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
	if m.Event == sseproto.EventGap {
		m.Event = sseproto.EventMessage
	}
	return m, found, nil
}

var errEntry = errors.New("rstore: malformed stream entry")

func messageID(m *rueidis.RedisMessage) (sseproto.ID, error) {
	text, err := m.ToString()
	if err != nil {
		return sseproto.ID{}, errors.Join(errEntry, err)
	}
	id, err := sseproto.ParseID(text)
	if err != nil {
		return sseproto.ID{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	return id, nil
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

// next is the position right after id, which is not MaxID.
func next(id sseproto.ID) sseproto.ID {
	if id.Seq++; id.Seq == 0 {
		id.Ms++
	}
	return id
}
