package rstore

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
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

// PageBack reports up to limit stored events of a channel before a position, newest first,
// fewer when they are large, as Page does. The zero position begins with the newest. What is
// lost is not reported: nobody knows how far back there was something. Next is the position
// of the last event read when there may be more, else zero. Safe for concurrent use.
func (s *Store) PageBack(ctx context.Context, channel string, before sseproto.ID, limit int, r sseproto.Replay) (next sseproto.ID, err error) {
	end, q := "+", rangeQuery{Store: s, replay: r, paged: true, left: limit}
	if !before.IsZero() {
		end = "(" + before.String()
	}
	for q.left > 0 {
		count := q.page(channel)
		res, err := s.ask(ctx, func(b rueidis.Builder) rueidis.Commands {
			return rueidis.Commands{b.Xrevrange().Key(s.keys.Prefix + channel).End(end).Start("-").Count(count).Build()}
		})
		if err != nil {
			return sseproto.ID{}, err
		}
		list, err := res[0].ToArray()
		if redisconn.Code(err) == redisconn.CodeWrongType {
			r.Lost(0, sseproto.ReasonUnavailable, sseproto.ID{})
			return sseproto.ID{}, nil
		}
		if err != nil {
			return sseproto.ID{}, fmt.Errorf("rstore: xrevrange: %w", err)
		}
		for k := range list {
			if next, err = q.event(0, channel, &list[k]); err != nil {
				return next, err
			}
		}
		if int64(len(list)) < count {
			return sseproto.ID{}, nil
		}
		if q.left -= len(list); q.bytes >= chunkBytes {
			break
		}
		end = "(" + next.String()
	}
	return next, nil
}

// rangeQuery is one call of Range, Page or PageBack.
type rangeQuery struct {
	*Store
	after, upTo sseproto.ID
	from        []sseproto.ID // of the channels of a look, see Merge; nil: all count
	paged       bool          // a call of Page: one channel
	left        int           // events that the page still takes
	next        sseproto.ID   // where a page that is full ends
	replay      sseproto.Replay
	bytes       int // of data in the last chunk
}

// view is what one pipeline tells of some channels after a position.
type view struct {
	channels []string
	after    sseproto.ID
	pages    []rueidis.RedisResult // two for each channel, see pageCmds
	ev       evidence              // what they prove
}

// look reads a page of each channel.
func (q *rangeQuery) look(ctx context.Context, channels []string, after sseproto.ID) (v view, err error) {
	keys := make([]string, len(channels))
	for i, ch := range channels {
		keys[i] = q.keys.Prefix + ch
	}
	res, err := q.ask(ctx, func(b rueidis.Builder) rueidis.Commands {
		cmds := make(rueidis.Commands, 0, frontCmds+2*len(keys)+backCmds)
		cmds = append(cmds, q.evidenceFront(b, keys)...)
		for i, key := range keys {
			behind := after
			if q.from != nil {
				behind = later(after, before(q.from[i]))
			}
			cmds = append(cmds, q.pageCmds(b, channels[i], key, behind)...)
		}
		return append(cmds, q.evidenceBack(b)...)
	})
	if err != nil {
		return v, err
	}
	back := len(res) - backCmds
	v = view{channels: channels, after: after, pages: res[frontCmds:back]}
	v.ev, err = parseEvidence(res[:frontCmds], res[back:])
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
func (q *rangeQuery) pageCmds(b rueidis.Builder, channel, key string, after sseproto.ID) []rueidis.Completed {
	return []rueidis.Completed{
		b.Xrange().Key(key).Start(next(after).String()).End(q.upTo.String()).Count(q.page(channel)).Build(),
		b.XinfoStream().Key(key).Build(),
	}
}

// page holds what the channel normally has: MAXLEN ~ n leaves up to n and a node.
func (q *rangeQuery) page(channel string) int64 {
	if q.paged {
		return int64(min(q.left, pageStep))
	}
	return int64(min(2*q.policies.list[q.policies.of(channel)].MaxLen+100, maxPage))
}

// errTooSlow: the pipeline was not answered within ConnWriteTimeout, which
// holds for all of it. Over a slow line a smaller one may get through.
var errTooSlow = errors.New("rstore: no answer in time")

// Written asks Redis how far the history is written. Safe for concurrent use.
func (s *Store) Written(ctx context.Context) (sseproto.ID, error) {
	res, err := s.ask(ctx, func(b rueidis.Builder) rueidis.Commands {
		return rueidis.Commands{b.Hget().Key(s.keys.Clock).Field("watermark").Build()}
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

// ask sends a pipeline of reads, again when the connection was cut.
func (s *Store) ask(ctx context.Context, build func(rueidis.Builder) rueidis.Commands) (res []rueidis.RedisResult, err error) {
	for range readTries {
		var c rueidis.Client
		if c, err = s.read.Get(ctx); err != nil {
			break
		}
		res = c.DoMulti(ctx, build(c.B())...)
		err = nil
		for _, r := range res {
			if err = r.NonRedisError(); err != nil {
				break
			}
			if redisconn.IsMoved(r.Error()) && redisconn.IsCluster(s.cfg.Client) {
				err = r.Error() // a new client replaces it
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

// channel reports one channel: number i of the view, and the pages that follow, each of
// which is judged for itself. That something is lost is told once.
func (q *rangeQuery) channel(ctx context.Context, ch, i int, v view) error {
	for told := false; ; i = 0 {
		if redisconn.Code(v.pages[2*i].Error()) == redisconn.CodeWrongType {
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
			if cursor, err = q.event(ch, v.channels[i], &list[k]); err != nil {
				return err
			}
		}
		if int64(len(list)) < q.page(v.channels[i]) || !cursor.Less(q.upTo) {
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
	reason := v.ev.lost(i, v.channels[i], st, v.after, q.upTo)
	if reason == "" && !st.exists && q.after.Less(v.after) {
		reason = sseproto.ReasonTrimmed // it was there for the page before
	}
	if reason != "" {
		q.replay.Lost(ch, reason, st.oldest(v.after))
	}
	return reason != "", nil
}

// before is the position right before id: messages count from 1.
func before(id sseproto.ID) sseproto.ID {
	id.Seq = max(id.Seq, 1) - 1
	return id
}

// next is the position right after id, which is not MaxID.
func next(id sseproto.ID) sseproto.ID {
	if id.Seq++; id.Seq == 0 {
		id.Ms++
	}
	return id
}
