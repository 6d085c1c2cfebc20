package rstore

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/internal/redislua"
	"ssed/sseproto"
)

var (
	//go:embed merge.lua
	mergeLua string
	//go:embed state.lua
	stateLua string

	// It changes nothing, so that it may run with memory full.
	mergeScript = redisconn.NewScript("#!lua flags=no-writes,allow-oom\n", redislua.IDs, stateLua, mergeLua)
)

const (
	// mergeBytes and mergeEntries bound one run of the script, which holds up Redis
	// meanwhile: on two busy cores 3.4 ms with 950 small entries, 4.6 ms with 1 MiB of
	// 64 KiB each on 32 channels.
	mergeBytes   = 1 << 20
	mergeEntries = 500
	// leastMergeBytes is where a slow line gets no smaller answers any more.
	leastMergeBytes = 16 << 10

	// glanceEntries is how many messages are asked for at first, of all channels together.
	// Most resumes of few channels are whole with them, and the script costs Redis six
	// times as much (52 instead of 8 µs for 20 small messages of one channel, 350 instead of
	// 60 µs for as many of eight).
	glanceEntries = 32
	// glanceChannels is how many channels are worth a glance: with more hardly any resume
	// is whole.
	glanceChannels = 8
	// glanceBytes is the size of messages above which nobody glances: what it reads in vain
	// is read again.
	glanceBytes = 4 << 10
)

// Merge reports the stored events of some channels with after < id ≤ through, all
// together in ascending order, and what is lost in that range: at most one Lost per
// channel. There are no others up to through. It ends when the events have limit bytes,
// which it exceeds by one step of each channel at most, or at upTo.
//
// Redis sends nothing that is not reported, but for a glance of 32 messages where they
// were small lately. So what it sends and what is held in memory are bounded by limit,
// whatever the channels hold. A run of the script costs Redis
// O(what is reported + the next entry of each channel).
//
// From is nil or has an ID for each channel: it counts from there, and what is before is
// neither reported nor lost.
//
// What is lost is judged as by Range, but for the range up to through only. Safe for
// concurrent use.
func (s *Store) Merge(ctx context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (through sseproto.ID, err error) {
	m := merge{Store: s, channels: channels, from: from, upTo: upTo, replay: r, told: make([]bool, len(channels)), seen: make([]bool, len(channels))}
	through = after
	if len(channels) == 0 {
		return upTo, nil
	}
	if p, isWhole, err := m.glance(ctx, after); isWhole {
		return upTo, m.tell(p)
	} else if err != nil && !errors.Is(err, errTooSlow) {
		return after, err
	}
	runBytes := int64(mergeBytes)
	for through.Less(upTo) && m.bytes < limit {
		p, err := m.read(ctx, through, min(runBytes, limit-m.bytes))
		if errors.Is(err, errTooSlow) && runBytes > leastMergeBytes {
			runBytes /= 8
			continue
		}
		if err == nil {
			err = m.tell(p)
		}
		if err != nil && after.Less(through) {
			return through, nil // what was read is good; whoever goes on from there gets the error
		}
		if err != nil {
			return through, err
		}
		through = p.through
	}
	return through, nil
}

// merge is one call of Merge.
type merge struct {
	*Store
	channels []string
	from     []sseproto.ID // nil: all count from the beginning of the read
	upTo     sseproto.ID
	replay   sseproto.Replay
	bytes    int64  // of the events that were reported
	told     []bool // channels of which a loss was told
	seen     []bool // channels that had a stream
}

// mergePart is what one run of the script tells.
type mergePart struct {
	after, through sseproto.ID
	streams        []mergeStream
	ev             evidence
}

// mergeStream is what it tells of one channel.
type mergeStream struct {
	state   streamState
	isOther bool // the key is no stream
	entries []rueidis.RedisMessage
}

// glance reads without the script where that probably brings all there is.
func (m *merge) glance(ctx context.Context, after sseproto.ID) (p mergePart, isWhole bool, err error) {
	if len(m.channels) > glanceChannels || m.messageBytes.Load() > glanceBytes || !after.Less(m.upTo) {
		return p, false, nil
	}
	most := glanceEntries / len(m.channels)
	q := rangeQuery{Store: m.Store, after: after, from: m.from, upTo: m.upTo, paged: true, left: most}
	v, err := q.look(ctx, m.channels, after)
	if err != nil {
		return p, false, err
	}
	p = mergePart{after: after, through: m.upTo, ev: v.ev, streams: make([]mergeStream, len(m.channels))}
	isWhole = true
	for i := range p.streams {
		st := &p.streams[i]
		if redisconn.Code(v.pages[2*i].Error()) == redisconn.CodeWrongType {
			st.isOther = true
			continue
		}
		if st.entries, err = v.pages[2*i].ToArray(); err != nil {
			return p, false, fmt.Errorf("rstore: xrange: %w", err)
		}
		if st.state, err = parseState(v.pages[2*i+1]); err != nil {
			return p, false, err
		}
		isWhole = isWhole && len(st.entries) < most
	}
	if !isWhole {
		err = m.measure(p)
	}
	return p, isWhole, err
}

// measure learns how large messages are from some that are not told.
func (m *merge) measure(p mergePart) error {
	n, bytes := 0, int64(0)
	for i := range p.streams {
		for k := range p.streams[i].entries {
			_, message, _, err := parseEntry(m.channels[i], &p.streams[i].entries[k])
			if err != nil {
				return err
			}
			n, bytes = n+1, bytes+int64(len(message.Data))
		}
	}
	m.learn(n, bytes)
	return nil
}

// learn takes in the size of n messages: at once when they are larger than those before,
// slowly when they are smaller.
func (m *merge) learn(n int, bytes int64) {
	if n == 0 {
		return
	}
	old, mean := m.messageBytes.Load(), bytes/int64(n)
	if mean < old {
		mean = old - (old-mean+7)/8
	}
	m.messageBytes.Store(mean)
}

// read runs the script, with the evidence around it.
func (m *merge) read(ctx context.Context, after sseproto.ID, enough int64) (p mergePart, err error) {
	keys := make([]string, len(m.channels))
	for i, name := range m.channels {
		keys[i] = m.keys.Prefix + name
	}
	call := redisconn.Call{Keys: keys, Args: []string{
		after.String(), m.upTo.String(), strconv.FormatInt(enough, 10), strconv.Itoa(mergeEntries),
	}}
	for _, from := range m.from {
		call.Args = append(call.Args, later(after, before(from)).String())
	}
	p.after = after
	res, ev, err := m.runForEvidence(ctx, mergeScript, call)
	if err != nil {
		return p, err
	}
	p.ev = ev
	return p, p.parse(res, len(keys))
}

// runForEvidence runs a script that reads the streams in call.Keys, with the evidence for
// what it reads around it.
func (s *Store) runForEvidence(ctx context.Context, script *redisconn.Script, call redisconn.Call) (r rueidis.RedisResult, ev evidence, err error) {
	for _, withText := range []bool{false, true} {
		res, err := s.ask(ctx, func(b rueidis.Builder) rueidis.Commands {
			cmds := append(make(rueidis.Commands, 0, frontCmds+1+backCmds), s.evidenceFront(b, call.Keys)...)
			return append(append(cmds, script.Command(b, call, withText)), s.evidenceBack(b)...)
		})
		if err != nil {
			return r, ev, err
		}
		if redisconn.Code(res[frontCmds].Error()) == redisconn.CodeNoScript && !withText {
			continue // the whole pipeline once more: what is behind the entries was read too early
		}
		ev, err = parseEvidence(res[:frontCmds], res[frontCmds+1:])
		return res[frontCmds], ev, err
	}
	return r, ev, errAnswer
}

func (p *mergePart) parse(r rueidis.RedisResult, n int) error {
	list, err := r.ToArray()
	if err != nil {
		return fmt.Errorf("rstore: merge: %w", err)
	}
	if len(list) != n+1 {
		return fmt.Errorf("%w: %d fields", errAnswer, len(list))
	}
	if p.through, err = messageID(&list[0]); err != nil {
		return err
	}
	p.streams = make([]mergeStream, n)
	for i := range p.streams {
		pair, err := list[i+1].ToArray()
		if err != nil || len(pair) != 2 {
			return errors.Join(errAnswer, err)
		}
		st := &p.streams[i]
		if st.entries, err = pair[1].ToArray(); err != nil {
			return errors.Join(errAnswer, err)
		}
		if text, err := pair[0].ToString(); err == nil {
			st.isOther = text != ""
			continue
		}
		if st.state, err = parseShortState(pair[0]); err != nil {
			return err
		}
	}
	return nil
}

// parseShortState reads a state as the script gives it.
func parseShortState(m rueidis.RedisMessage) (st streamState, err error) {
	f, err := m.ToArray()
	if err != nil || len(f) != 6 {
		return st, errors.Join(errAnswer, err)
	}
	st.exists = true
	var errs [5]error
	st.length, errs[0] = f[0].AsInt64()
	st.added, errs[1] = f[1].AsInt64()
	st.deleted, errs[2] = messageID(&f[2])
	st.last, errs[3] = messageID(&f[3])
	if first, _ := f[4].ToString(); first != "" {
		st.first, errs[4] = messageID(&f[4])
	}
	prev, _ := f[5].ToString()
	st.setBefore(prev)
	return st, errors.Join(errs[:]...)
}

// tell reports a part: what is lost first.
func (m *merge) tell(p mergePart) error {
	type found struct {
		channel int
		id      sseproto.ID
		message sseproto.Message
	}
	var all []found
	for i := range p.streams {
		st := &p.streams[i]
		m.judge(i, st, p)
		for k := range st.entries {
			id, message, ok, err := parseEntry(m.channels[i], &st.entries[k])
			if err != nil {
				return err
			}
			if ok {
				all = append(all, found{i, id, message})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return a.id.Compare(b.id) })
	bytes := int64(0)
	for k := range all {
		bytes += int64(len(all[k].message.Data))
		m.replay.Event(all[k].channel, all[k].id, all[k].message)
	}
	m.bytes += bytes
	m.learn(len(all), bytes)
	return nil
}

// judge reports what is lost of a channel, once.
func (m *merge) judge(i int, st *mergeStream, p mergePart) {
	wasThere := m.seen[i]
	m.seen[i] = st.state.exists
	after := p.after
	if m.from != nil {
		after = later(after, m.from[i]) // its own message is there, so the one before need not be
	}
	if m.told[i] || !after.Less(p.through) {
		return
	}
	reason := sseproto.ReasonUnavailable
	if !st.isOther {
		reason = p.ev.lost(i, m.channels[i], st.state, after, p.through)
	}
	if reason == "" && wasThere && !st.state.exists {
		reason = sseproto.ReasonTrimmed // between two runs of the script
	}
	if reason != "" {
		m.told[i] = true
		m.replay.Lost(i, reason, st.state.oldest(after))
	}
}
