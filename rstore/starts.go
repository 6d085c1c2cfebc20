package rstore

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/internal/redislua"
	"ssed/sseproto"
)

var (
	//go:embed starts.lua
	startsLua string

	startsScript = redisconn.NewScript("#!lua flags=no-writes,allow-oom\n", redislua.IDs, stateLua, startsLua)
)

// startChannels bounds the streams that one run of the script looks at: some 5 µs each.
const startChannels = 256

// tickless is how long a log may go on without a tick, at most: a feed gives up a link on
// which none comes long before. A message published at some time follows a tick that was
// made up to so long before.
const tickless = 5 * time.Minute

// Starts finds where a stream starts on each of some channels: the ID of the first event
// that it gets, or one before it with nothing in between. Zero: nothing is stored that it
// might get. Written is how far the history was written before it looked.
//
// At is one of these:
//   - FromEarliest: the first event that is stored.
//   - FromLast: so many events back from upTo, as counts has for each channel; the first one
//     where fewer are stored.
//   - FromTime: the first event of the last tick at that time or before in which the channel
//     had any, if that is not long before; else the time itself. If something from there on
//     has been trimmed, has expired or was evicted, the first event that is left.
//
// Nothing is reported as lost: what is gone before a start is not missing. Merge tells of
// what is lost behind it. Redis sends IDs and no events. A run of the script costs it
// O(channels), and for FromLast O(what it goes back over), up to 500 events and 1 MiB.
// Safe for concurrent use.
func (s *Store) Starts(ctx context.Context, channels []string, at sseproto.StartPoint, counts []int, upTo sseproto.ID) (from []sseproto.ID, written sseproto.ID, err error) {
	for len(from) < len(channels) {
		n := min(startChannels, len(channels)-len(from))
		q := startQuery{Store: s, channels: channels[len(from):][:n], at: at, upTo: upTo}
		if at.Kind == sseproto.FromLast {
			q.counts = counts[len(from):][:n]
		}
		part, partWritten, err := q.find(ctx)
		if err != nil {
			return nil, written, err
		}
		if len(from) == 0 {
			written = partWritten
		}
		from = append(from, part...)
	}
	return from, written, nil
}

// startQuery is a part of a call of Starts.
type startQuery struct {
	*Store
	channels []string
	at       sseproto.StartPoint
	counts   []int // of FromLast
	upTo     sseproto.ID
}

func (q *startQuery) find(ctx context.Context) (from []sseproto.ID, written sseproto.ID, err error) {
	call := redisconn.Call{Keys: make([]string, len(q.channels))}
	for i, name := range q.channels {
		call.Keys[i] = q.keys.Prefix + name
	}
	switch q.at.Kind {
	case sseproto.FromEarliest:
		call.Args = []string{"earliest"}
	case sseproto.FromTime:
		lowest := q.at.Time - min(q.at.Time, uint64(tickless/time.Millisecond))
		call.Args = []string{"time", strconv.FormatUint(lowest, 10), strconv.FormatUint(q.at.Time, 10)}
	case sseproto.FromLast:
		return q.findLast(ctx, call)
	default:
		return nil, written, fmt.Errorf("rstore: no kind of start: %d", q.at.Kind)
	}
	res, ev, err := q.runForEvidence(ctx, startsScript, call)
	if err != nil {
		return nil, written, err
	}
	answers, err := parseStarts(res, len(q.channels))
	if err != nil {
		return nil, written, err
	}
	from = make([]sseproto.ID, len(answers))
	for i, a := range answers {
		if from[i] = a.id; q.at.Kind == sseproto.FromTime {
			if from[i], err = q.fromTime(q.channels[i], a, ev); err != nil {
				return nil, written, err
			}
		}
	}
	return from, ev.written, nil
}

// fromTime is where a channel starts at a time.
func (q *startQuery) fromTime(channel string, a startAnswer, ev evidence) (from sseproto.ID, err error) {
	from.Ms = q.at.Time
	if !a.id.IsZero() {
		from.Ms = a.id.Ms // all of that tick
	}
	if from.IsZero() {
		from.Seq = 1 // zero is another answer
	}
	st, isOther, err := a.state()
	if err != nil || isOther {
		return from, err
	}
	if ev.reachesBack(channel, st, from) {
		return from, nil
	}
	if st.length == 0 || !st.exists {
		return sseproto.ID{}, nil
	}
	return later(from, st.first), nil
}

// reachesBack reports whether a stream has all that the log knew of its channel behind a
// position, but for what is lost in between.
func (ev *evidence) reachesBack(channel string, st streamState, after sseproto.ID) bool {
	absent, unkept, off := ev.keeping.of(channel, ev.latest)
	switch {
	case off || after.Less(unkept):
		return false
	case len(ev.markers) > 0 && ev.markers[0].from.IsZero() && after.Less(ev.markers[0].to): // the log was not there
		return false
	case st.trimmed(after) && (st.length == 0 || after.Less(st.first)):
		return false
	case st.wholeSince(after):
		return true
	}
	return !after.Less(later(ev.expired, absent)) && !after.Less(ev.evicted) && !st.torn(after, sseproto.MaxID)
}

// findLast goes back over the streams, run by run.
func (q *startQuery) findLast(ctx context.Context, call redisconn.Call) (from []sseproto.ID, written sseproto.ID, err error) {
	from = make([]sseproto.ID, len(q.channels))
	at := make([]string, len(q.channels))
	left := make([]int64, len(q.channels))
	for i, n := range q.counts {
		left[i] = int64(n)
	}
	for isFirst := true; ; isFirst = false {
		run := redisconn.Call{Args: []string{"last", q.upTo.String(), strconv.Itoa(mergeBytes), strconv.Itoa(mergeEntries)}}
		var places []int
		for i, n := range left {
			if n > 0 {
				run.Keys = append(run.Keys, call.Keys[i])
				run.Args = append(run.Args, at[i], strconv.FormatInt(n, 10))
				places = append(places, i)
			}
		}
		if len(places) == 0 {
			return from, written, nil
		}
		res, ev, err := q.runForEvidence(ctx, startsScript, run)
		if err != nil {
			return nil, written, err
		}
		if isFirst {
			written = ev.written
		}
		answers, err := parseStarts(res, len(places))
		if err != nil {
			return nil, written, err
		}
		for k, a := range answers {
			i := places[k]
			if from[i], at[i] = a.id, ""; !a.id.IsZero() {
				at[i] = a.id.String()
			}
			if left[i], err = a.rest.AsInt64(); err != nil {
				return nil, written, errors.Join(errAnswer, err)
			}
		}
	}
}

// startAnswer is what the script tells of one stream.
type startAnswer struct {
	id   sseproto.ID // zero: none
	rest rueidis.RedisMessage
}

// state is that of the stream, of FromTime.
func (a *startAnswer) state() (st streamState, isOther bool, err error) {
	if text, err := a.rest.ToString(); err == nil {
		return st, text != "", nil
	}
	st, err = parseShortState(a.rest)
	return st, false, err
}

func parseStarts(r rueidis.RedisResult, n int) ([]startAnswer, error) {
	list, err := r.ToArray()
	if err != nil {
		return nil, fmt.Errorf("rstore: starts: %w", err)
	}
	if len(list) != n {
		return nil, fmt.Errorf("%w: %d streams", errAnswer, len(list))
	}
	answers := make([]startAnswer, n)
	for i := range list {
		pair, err := list[i].ToArray()
		if err != nil || len(pair) != 2 {
			return nil, errors.Join(errAnswer, err)
		}
		answers[i].rest = pair[1]
		if text, _ := pair[0].ToString(); text != "" {
			if answers[i].id, err = messageID(&pair[0]); err != nil {
				return nil, err
			}
		}
	}
	return answers, nil
}
