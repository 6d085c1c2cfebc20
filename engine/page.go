package engine

import (
	"cmp"
	"slices"

	"ssed/sseproto"
)

// frameRef is one frame of a page.
type frameRef struct {
	id       sseproto.ID
	channel  int
	off, end int
	gap      bool
}

// page gathers what the history tells about some channels, as frames in the
// order in which they are delivered. It implements sseproto.Replay.
type page struct {
	channels  []string
	after     sseproto.ID
	requested string     // where a client left off, told in gap events; "" for live subscribers
	known     toldLosses // what it has been told of already
	// discontinuities is how many the log had had when the page was read.
	discontinuities uint64
	limit           int64             // size after which no more are taken; 0: no limit
	full            func()            // called once when no more are taken
	form            form              // of the frames
	shared          bool              // each reader gets the frames of its own channels only
	partial         bool              // its readers may have channels of other partitions
	refused         bool              // an event was not taken
	lost            map[string]string // channels known to have lost something, with the reason
	oldest          []lostRange
	told            []lostRange // the losses that have a gap event, set by finish
	buf             []byte
	frames          []frameRef
}

// lostRange is a loss that the history reported.
type lostRange struct {
	channel int
	reason  string
	oldest  sseproto.ID
}

func newPage(channels []string, after sseproto.ID) *page {
	return &page{channels: channels, after: after}
}

// Event implements sseproto.Replay.
func (p *page) Event(channel int, id sseproto.ID, m sseproto.Message) {
	if p.limit > 0 && p.size() > p.limit {
		if !p.refused {
			p.refused = true
			p.full()
		}
		return
	}
	off := len(p.buf)
	p.buf = p.form.appendEvent(p.buf, id, p.channels[channel], m)
	p.frames = append(p.frames, frameRef{id: id, channel: channel, off: off, end: len(p.buf)})
}

// size is the memory that the frames take: here, or of a shared page in the ring, where
// small ones take several times their bytes.
func (p *page) size() int64 {
	size := int64(len(p.buf))
	if p.shared {
		size += int64(len(p.frames)) * ringOverhead
	}
	return size
}

// Lost implements sseproto.Replay.
func (p *page) Lost(channel int, reason string, oldest sseproto.ID) {
	if !p.known.has(channel, reason) {
		p.oldest = append(p.oldest, lostRange{channel, reason, oldest})
	}
}

func (p *page) reset() { p.buf, p.frames, p.oldest = p.buf[:0], p.frames[:0], nil }

// loseAll notes a loss on every channel.
func (p *page) loseAll(reason string) {
	for i := range p.channels {
		p.Lost(i, reason, sseproto.ID{})
	}
}

// finish adds the gap events, one for each reason, and brings the frames into order:
// gaps first, then by ID. On a shared page each channel has its own.
//
// The ID of a gap event is where a client goes on that is cut off right after it.
// While further gap events follow, that is where it was before: it must not miss
// being told of the other channels. The last one has the ID right before the first
// message that is left in (after, upTo], or upTo when none is: who resumes from it
// is not told again. Which is the last differs between the readers of a shared page, and
// so does where each of them stands, so its gap events have no ID. With that of the end
// of the span before, a reader cut off between two of them went back: to an instance that
// still had what was taken back, which sent it again, on channels without a gap.
func (p *page) finish(upTo sseproto.ID) {
	p.told = p.losses()
	groups := p.groups()
	for k, group := range groups {
		gap := p.gapOf(group)
		id := p.after
		if k == len(groups)-1 && !p.shared {
			id = p.restartFrom(upTo)
		}
		if !p.shared {
			gap.ID = id
		}
		off := len(p.buf)
		p.buf = p.form.appendGap(p.buf, gap)
		p.frames = append(p.frames, frameRef{id: id, channel: group[0].channel, off: off, end: len(p.buf), gap: true})
	}
	slices.SortStableFunc(p.frames, func(a, b frameRef) int {
		if a.gap != b.gap {
			if a.gap {
				return -1
			}
			return 1
		}
		return cmp.Or(a.id.Compare(b.id), cmp.Compare(a.channel, b.channel))
	})
}

// losses returns one loss for each channel that has any, the history's word first.
func (p *page) losses() (list []lostRange) {
	told := make(map[int]bool)
	for _, l := range p.oldest {
		if !told[l.channel] {
			told[l.channel] = true
			list = append(list, l)
		}
	}
	for i, name := range p.channels {
		if reason, ok := p.lost[name]; ok && !told[i] {
			list = append(list, lostRange{channel: i, reason: reason})
		}
	}
	return list
}

// toldWith is what a client has been told of that has these frames.
func (p *page) toldWith(frames []frameRef) toldLosses {
	return p.known.with(p.discontinuities, p.told, frames)
}

// toldChannels are those that have a gap event.
func (p *page) toldChannels() []string {
	names := make([]string, len(p.told))
	for i, l := range p.told {
		names[i] = p.channels[l.channel]
	}
	return names
}

// groups are the losses as they are told: those of one reason in one event.
func (p *page) groups() (list [][]lostRange) {
	for _, l := range p.told {
		k := -1
		if !p.shared {
			k = slices.IndexFunc(list, func(g []lostRange) bool { return g[0].reason == l.reason })
		}
		if k < 0 {
			list = append(list, nil)
			k = len(list) - 1
		}
		list[k] = append(list[k], l)
	}
	return list
}

// gapOf is the gap event for some losses of one reason, but for its ID.
func (p *page) gapOf(group []lostRange) sseproto.Gap {
	gap := sseproto.Gap{Reason: group[0].reason, Requested: p.requested, Oldest: group[0].oldest}
	if len(group) == 1 {
		gap.Channel = p.channels[group[0].channel]
		return gap
	}
	for _, l := range group {
		if gap.Oldest.IsZero() || !l.oldest.IsZero() && l.oldest.Less(gap.Oldest) {
			gap.Oldest = l.oldest
		}
		if p.partial || len(group) < len(p.channels) { // without names it would be all of the stream's
			gap.Channels = append(gap.Channels, p.channels[l.channel])
		}
	}
	return gap
}

// toldLoss sums up the gap events of a page for one reason.
type toldLoss struct {
	reason   string
	channel  string // "" when there are several
	channels []string
}

// sumUp sums up the gap events of the page.
func (p *page) sumUp() (list []toldLoss) {
	for _, l := range p.told {
		name := p.channels[l.channel]
		k := slices.IndexFunc(list, func(t toldLoss) bool { return t.reason == l.reason })
		if k < 0 {
			list = append(list, toldLoss{reason: l.reason, channel: name, channels: []string{name}})
			continue
		}
		list[k].channel, list[k].channels = "", append(list[k].channels, name)
	}
	return list
}

// restartFrom returns the position right before the first message of the page.
func (p *page) restartFrom(upTo sseproto.ID) sseproto.ID {
	id := upTo
	for _, f := range p.frames {
		if before := (sseproto.ID{Ms: f.id.Ms, Seq: max(f.id.Seq, 1) - 1}); !f.gap && before.Less(id) {
			id = before
		}
	}
	if id.Less(p.after) {
		return p.after
	}
	return id
}
