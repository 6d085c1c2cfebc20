package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"ssed/sseproto"
)

// stagedMessage waits for the stretch before it to be read back.
type stagedMessage struct {
	id      sseproto.ID
	channel string
	message sseproto.Message
}

// stagedSpan is a span whose messages wait outside the ring.
type stagedSpan struct {
	after    sseproto.ID // end of the span before
	low      sseproto.ID
	ready    sseproto.ID
	through  sseproto.ID // set when closed
	closed   bool
	messages []stagedMessage
}

// stage holds what the feed brings while a lost stretch is read back from the
// history, so that the ring stays in order. All fields are guarded by Log.mu.
type stage struct {
	spans  []*stagedSpan
	bytes  int64
	kick   chan struct{}           // capacity 1: there is a stretch to read back
	giveUp context.CancelCauseFunc // ends what the filler waits for; nil: it does not wait
}

// ringOverhead is what a message takes of the ring at most beyond its bytes: its record,
// and the space of a frame of the size for which segments have records. Counted with
// less, half a ring of small messages that wait, or are read back, would not fit into the
// ring afterwards.
const ringOverhead = frameBytesPerEntry + int64(entryBytes)

// cost is what the message takes of the bound on waiting ones.
func (m *stagedMessage) cost() int64 {
	return int64(len(m.channel)+len(m.message.Event)+len(m.message.ID)+len(m.message.Data)) + ringOverhead
}

// checkRoom makes the filler give up when more waits than is good for the ring.
func (st *stage) checkRoom(l *Log) {
	if st.bytes > l.ringBytes/2 && st.giveUp != nil {
		st.giveUp(errStageFull)
	}
}

// whileRoom returns a context that ends, with errStageFull as its cause, when no more
// can be held back. The filler calls done when it has what it waited for.
func (l *Log) whileRoom(ctx context.Context) (waiting context.Context, done func()) {
	waiting, giveUp := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stage.giveUp = giveUp
	l.stage.checkRoom(l)
	return waiting, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stage.giveUp = nil
		giveUp(nil)
	}
}

func (st *stage) active() bool { return len(st.spans) > 0 }

// low is the start of the oldest staged span: the history may go on from there.
func (st *stage) low() (low sseproto.ID, ok bool) {
	if !st.active() {
		return low, false
	}
	return st.spans[0].low, true
}

func (st *stage) newest() *stagedSpan { return st.spans[len(st.spans)-1] }

func (st *stage) open(l *Log, low sseproto.ID) {
	s := &stagedSpan{low: low, ready: low}
	if st.active() {
		s.after = st.newest().through
	} else {
		s.after = l.spans.newest().high
		l.setFillingLocked(true)
	}
	st.spans = append(st.spans, s)
	select {
	case st.kick <- struct{}{}:
	default:
	}
}

func (st *stage) append(l *Log, id sseproto.ID, channel string, m *sseproto.Message) {
	s := st.newest()
	if s.closed {
		return
	}
	staged := stagedMessage{id, strings.Clone(channel), sseproto.Message{
		Event: strings.Clone(m.Event), ID: strings.Clone(m.ID), Retry: m.Retry, Data: strings.Clone(m.Data),
	}}
	st.bytes += staged.cost()
	s.messages = append(s.messages, staged)
	st.checkRoom(l)
}

// setFillingLocked tells resumes to wait until the stretch behind the coverage is
// in the ring, or that it is.
func (l *Log) setFillingLocked(filling bool) {
	cov := *l.cover.Load()
	cov.filling = filling
	l.cover.Store(&cov)
}

func (st *stage) commit(id sseproto.ID) {
	if s := st.newest(); !s.closed && s.ready.Less(id) {
		s.ready = id
	}
}

func (st *stage) close(through sseproto.ID) {
	s := st.newest()
	if s.closed {
		return
	}
	s.closed, s.through = true, through
	keep := slices.IndexFunc(s.messages, func(m stagedMessage) bool { return through.Less(m.id) })
	if keep >= 0 { // nobody has seen the rest
		st.take(s.messages[keep:])
		s.messages = s.messages[:keep]
	}
}

// take forgets messages that wait no longer.
func (st *stage) take(gone []stagedMessage) {
	for i := range gone {
		st.bytes -= gone[i].cost()
	}
	clear(gone)
}

// mayFillLocked reports whether a stretch is missing before the next span that
// somebody waits for, or that somebody was told wrong things about.
func (l *Log) mayFillLocked() bool {
	before := l.spans.newest()
	return l.fills && before != nil && (before.cut || l.dir.hasSubscribers())
}

// errPageFull: what was lost is too much for the ring, but the history has it.
var errPageFull = errors.New("engine: more was lost than fits into half of the ring")

var errStageFull = errors.New("engine: too many messages came in while the history was read")

// learnWatermark takes in how far the history is written.
func (l *Log) learnWatermark(id sseproto.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watermark.Load().Less(id) {
		l.watermark.Store(&id)
		l.notifyLocked()
	}
}

// awaitWatermark returns when the history is written up to id, or an error at
// the end of ctx.
func (l *Log) awaitWatermark(ctx context.Context, id sseproto.ID) error {
	if !l.watermark.Load().Less(id) {
		return nil
	}
	l.watchers.Add(1)
	defer l.watchers.Add(-1)
	select {
	case l.watch <- struct{}{}:
	default:
	}
	for {
		changed := l.Changed()
		if !l.watermark.Load().Less(id) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lastLook bounds the question that is asked after a wait has run out.
const lastLook = time.Second

// awaitWritten is awaitWatermark until some time, at which it asks once more: a process
// that was stopped for a while finds that passed and the history written.
func (l *Log) awaitWritten(ctx context.Context, until time.Time, h History, id sseproto.ID) error {
	waiting, stop := context.WithDeadline(ctx, until)
	err := l.awaitWatermark(waiting, id)
	stop()
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lastLook)
	defer cancel()
	mark, lookErr := h.Written(ctx)
	if lookErr != nil || mark.Less(id) {
		return err
	}
	l.learnWatermark(mark)
	return nil
}

// watchEvery is how often the history is asked how far it is written while
// somebody waits. Ticks tell it as well, but only ten times a second and one
// tick late: a lost link would be noticed for 200 ms longer.
const watchEvery = 10 * time.Millisecond

// watchWatermark asks the history while somebody waits, until ctx ends.
func (l *Log) watchWatermark(ctx context.Context, h History) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.watch:
		}
		for l.watchers.Load() > 0 {
			if id, err := h.Written(ctx); err == nil {
				l.learnWatermark(id)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// filler reads lost stretches back for the live subscribers. One goroutine.
type filler struct {
	log     *Log
	history History
	wait    time.Duration
	onError func(err error, after, low sseproto.ID)
}

// run works until ctx ends.
func (f *filler) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.log.stage.kick:
		}
		for ctx.Err() == nil {
			st := f.log.oldestStaged()
			if st == nil {
				break
			}
			f.fill(ctx, st)
		}
	}
}

func (l *Log) oldestStaged() *stagedSpan {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stage.active() {
		return nil
	}
	return l.stage.spans[0]
}

// fill reads the stretch before st back and puts it and st into the ring.
func (f *filler) fill(ctx context.Context, st *stagedSpan) {
	page := newPage(f.log.dir.subscribed(), st.after)
	page.shared, page.lost = true, f.log.untrusted(st.after)
	err := f.gather(ctx, page, st)
	if err != nil && ctx.Err() != nil {
		return // shutting down: the streams are closing
	}
	if err != nil {
		f.onError(err, st.after, st.low)
		f.log.stats.abandoned.Add(1)
	}
	switch {
	case errors.Is(err, errPageFull):
		f.log.unstage(st, true)
		return
	case err != nil:
		page.reset()
		page.loseAll(sseproto.ReasonUnavailable)
	}
	page.finish(st.low)
	f.log.putPage(page)
	f.log.unstage(st, false)
	f.log.noteTold(page)
}

// gather gets what the history has of the stretch, as long as what comes meanwhile can
// be held back.
func (f *filler) gather(ctx context.Context, page *page, st *stagedSpan) error {
	ctx, done := f.log.whileRoom(ctx)
	defer done()
	err := f.invalidate(ctx, page, st)
	if err == nil {
		err = f.read(ctx, page, st)
	}
	if ctx.Err() != nil && err != nil && !errors.Is(err, errPageFull) {
		return context.Cause(ctx)
	}
	return err
}

// invalidate warns those who left with an ID that was given out after the span
// should have been cut.
func (f *filler) invalidate(ctx context.Context, page *page, st *stagedSpan) error {
	if page.lost == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	return f.history.Invalidate(ctx, st.after, st.low)
}

func (f *filler) read(ctx context.Context, page *page, st *stagedSpan) error {
	if err := f.log.awaitWritten(ctx, time.Now().Add(f.wait), f.history, st.low); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	page.limit = f.log.ringBytes / 2
	if err := f.history.Range(ctx, page.channels, st.after, st.low, page); err != nil {
		return err
	}
	if page.overflowed() {
		return errPageFull
	}
	return nil
}

// untrusted names the channels that got messages beyond after in the span that
// was cut back to it, with the reason to tell them. Nil when it was not cut.
func (l *Log) untrusted(after sseproto.ID) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.spans.newest()
	if s == nil || !s.cut {
		return nil
	}
	lost := make(map[string]string)
	for pos := s.end; pos > max(s.first, l.tail.Load()); pos-- {
		e := l.entryLocked(pos - 1)
		if !after.Less(e.id) {
			break
		}
		if name, ok := l.dir.nameOf(e.ch); ok {
			lost[name] = sseproto.ReasonOutage
		}
	}
	return lost
}

// unstage puts the staged span into the ring, behind what was read back or, if that
// was too much, behind a cut.
func (l *Log) unstage(st *stagedSpan, cutOff bool) {
	l.mu.Lock()
	if cutOff {
		l.cutLocked(st.after, st.low)
	}
	l.openLocked(st.low)
	l.setFillingLocked(true) // until all is there
	l.unlock()
	for !l.unstageSome(st) {
	}
}

// unstageSome does what one turn of the lock may, and ends the staged span when nothing
// of it waits any more. What comes between two turns waits behind the rest.
func (l *Log) unstageSome(st *stagedSpan) (done bool) {
	l.mu.Lock()
	defer l.unlock()
	part := st.messages[:min(len(st.messages), putSlice)]
	for i := range part {
		m := &part[i]
		l.appendLocked(m.id, m.channel, &m.message)
	}
	l.stage.take(part)
	if st.messages = st.messages[len(part):]; len(st.messages) > 0 {
		return false
	}
	if s := l.spans.current(); s.ready.Less(st.ready) {
		s.ready = st.ready
		l.reachLocked(st.ready)
	}
	if st.closed {
		l.closeLocked(st.through)
	}
	l.stage.spans = l.stage.spans[1:]
	l.setFillingLocked(l.stage.active())
	l.wake = ^uint64(0) // for the slots that wait for the log to get on
	l.notifyLocked()
	return true
}

// putSlice is how many messages are put into the ring in one turn of the lock,
// which the feed and the loops need too: 1 ms.
const putSlice = 1000

// putPage puts a page into the ring, before a new span. Whoever resumes meanwhile waits,
// as the log is filling.
func (l *Log) putPage(p *page) {
	for part := range slices.Chunk(p.frames, putSlice) {
		l.mu.Lock()
		for _, f := range part {
			kind := kindFilled
			if f.gap {
				kind = kindGap
				l.stats.gaps.Add(1)
			} else {
				l.stats.filled.Add(1)
			}
			l.putFrameLocked(kind, f.id, p.channels[f.channel], p.buf[f.off:f.end])
		}
		l.unlock()
	}
}

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
	requested string            // Last-Event-ID as sent, told in gap events; "" for live subscribers
	limit     int64             // size after which no more are taken; 0: no limit
	shared    bool              // each reader gets the frames of its own channels only
	refused   sseproto.ID       // the first event that was not taken; MaxID: none
	lost      map[string]string // channels known to have lost something, with the reason
	oldest    []lostRange
	told      []lostRange // the losses that have a gap event, set by finish
	buf       []byte
	frames    []frameRef
}

// lostRange is a loss that the history reported.
type lostRange struct {
	channel int
	reason  string
	oldest  sseproto.ID
}

func newPage(channels []string, after sseproto.ID) *page {
	return &page{channels: channels, after: after, refused: sseproto.MaxID}
}

// Event implements sseproto.Replay.
func (p *page) Event(channel int, id sseproto.ID, m sseproto.Message) {
	if p.limit > 0 && p.size() > p.limit {
		if id.Less(p.refused) {
			p.refused = id
		}
		return
	}
	off := len(p.buf)
	p.buf = sseproto.AppendEvent(p.buf, id, m)
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
	p.oldest = append(p.oldest, lostRange{channel, reason, oldest})
}

// overflowed reports whether events were refused. At least one was taken then.
func (p *page) overflowed() bool { return p.refused != sseproto.MaxID }

func (p *page) reset() { p.buf, p.frames, p.oldest = p.buf[:0], p.frames[:0], nil }

// loseAll notes a loss on every channel.
func (p *page) loseAll(reason string) {
	for i := range p.channels {
		p.Lost(i, reason, sseproto.ID{})
	}
}

// finish adds a gap event for each channel that lost something and brings the
// frames into order: gaps first, then by ID.
//
// The ID of a gap event is where a client goes on that is cut off right after it.
// While further gap events follow, that is where it was before: it must not miss
// being told of the other channels. The last one has the ID right before the first
// message that is left in (after, upTo], or upTo when none is: who resumes from it
// is not told again. Which is the last differs between the readers of a shared page,
// so there every one leaves the client where it was.
func (p *page) finish(upTo sseproto.ID) {
	p.told = p.losses()
	for k, l := range p.told {
		id := p.after
		if k == len(p.told)-1 && !p.shared {
			id = p.restartFrom(upTo)
		}
		off := len(p.buf)
		p.buf = sseproto.AppendGap(p.buf, sseproto.Gap{
			ID: id, Reason: l.reason, Channel: p.channels[l.channel], Requested: p.requested, Oldest: l.oldest,
		})
		p.frames = append(p.frames, frameRef{id: id, channel: l.channel, off: off, end: len(p.buf), gap: true})
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

// noteTold records what live streams were told by a page.
func (l *Log) noteTold(p *page) {
	now := time.Now()
	for _, t := range p.sumUp() {
		l.gaps.noteLive(now, t.reason, t.channel, l.dir.subscriptions(t.channels))
	}
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
