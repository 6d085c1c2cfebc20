package engine

import "time"

// A job brings the new messages of one channel to its members in this shard. It
// lives over several passes when there are many members.
type job struct {
	ch       uint32
	next     uint32 // subscription to serve next; 0: all served
	from, to uint64 // positions of the first and last message that it brings
	started  bool
	again    bool   // newer messages were scanned after it started
	came     moment // before which none of them was in the log
	later    moment // the same for the newer ones
}

// leave keeps the job's place when subscription n goes away.
func (j *job) leave(n, next uint32) {
	if j.next == n {
		j.next = next
	}
}

const (
	// smallChannel: up to this many members a channel is served at once, ahead of
	// large ones: at about 5 µs a write that is a third of a millisecond.
	smallChannel = 64
	// sliceWrites bounds the writes for a large channel before the shard looks at
	// new messages, small channels and events again: about half a millisecond.
	sliceWrites = 96
	// scanEntries bounds the messages looked at in one pass, so that a burst
	// becomes few large writes but does not keep the sockets waiting.
	scanEntries = 4096
	// catchUpBytes bounds what one connection gets in one turn when it is behind.
	catchUpBytes = 1 << 20
)

// fanOut brings new messages to their subscribers, as many as one pass may, and
// notes how long the messages had waited when they were written.
func (s *shard) fanOut(v *view) {
	if !s.passBarriers() {
		return
	}
	s.clock.advance(s.reader.cursor.Load(), v.head, s.engine.moment(s.began))
	s.scan(v)
	start := s.count.delivered.Load()
	s.serveSmall(v)
	small := s.count.delivered.Load()
	came := s.serveLarge(v)
	if end := s.count.delivered.Load(); end > start {
		now := s.engine.moment(time.Now())
		s.count.lag.observe(now-s.clock.came, small-start)
		s.count.lag.observe(now-came, end-small)
	}
}

// scan looks at new messages and makes or extends jobs for channels with members.
func (s *shard) scan(v *view) {
	cursor := s.reader.cursor.Load()
	for cursor < v.tail { // again if the ring turns on while the slots are looked at
		s.overrun(v)
		if !s.passBarriers() { // the view has grown
			return
		}
		cursor = s.reader.cursor.Load()
	}
	end := min(v.head, cursor+scanEntries)
	for cursor < end {
		seg, first, stop := v.run(cursor, end)
		for ; cursor < stop; cursor++ {
			ch := seg.entries[cursor-first].ch
			if ch < uint32(len(s.members)) && s.members[ch].first != 0 {
				s.assign(ch, cursor)
			}
		}
	}
	s.reader.cursor.Store(cursor)
}

// assign gives a new message to the channel's job.
func (s *shard) assign(ch uint32, pos uint64) {
	m := &s.members[ch]
	if m.job != 0 {
		j := &s.jobs[m.job-1]
		switch {
		case j.started && !j.again:
			j.again, j.later = true, s.clock.came
		case !j.started:
			j.to = pos
		}
		return
	}
	n := s.takeJob()
	s.jobs[n] = job{ch: ch, from: pos, to: pos, came: s.clock.came}
	m.job = n + 1
	if m.count <= smallChannel {
		s.small = append(s.small, n)
	} else {
		s.large.push(n)
	}
}

func (s *shard) takeJob() uint32 {
	if n := len(s.freeJobs); n > 0 {
		j := s.freeJobs[n-1]
		s.freeJobs = s.freeJobs[:n-1]
		return j
	}
	s.jobs = append(s.jobs, job{})
	return uint32(len(s.jobs) - 1)
}

// serveSmall finishes all jobs of small channels.
func (s *shard) serveSmall(v *view) {
	for i := 0; i < len(s.small); i++ { // jobs that go again are added behind
		n := s.small[i]
		for !s.serve(v, n, sliceWrites) {
		}
		if s.finish(n) {
			s.small = append(s.small, n)
		}
	}
	s.small = s.small[:0]
}

// serveLarge does a slice of the large job that waits longest, and returns when its
// messages came.
func (s *shard) serveLarge(v *view) (came moment) {
	n, ok := s.large.pop()
	if !ok {
		return 0
	}
	came = s.jobs[n].came
	if !s.serve(v, n, sliceWrites) || s.finish(n) {
		s.large.push(n)
	}
	return came
}

// finish ends a job whose members are all served, unless there is more for them.
func (s *shard) finish(n uint32) (again bool) {
	j := &s.jobs[n]
	if m := &s.members[j.ch]; j.again && m.count > 0 {
		*j = job{ch: j.ch, from: j.to + 1, to: s.reader.cursor.Load() - 1, came: j.later}
		return true
	}
	s.members[j.ch].job = 0
	s.freeJobs = append(s.freeJobs, n)
	return false
}

// serve writes the job's messages to up to limit members and reports whether
// all are served.
func (s *shard) serve(v *view, n uint32, limit int) (done bool) {
	j := &s.jobs[n]
	if !j.started {
		j.started = true
		j.next = s.members[j.ch].first
	}
	b := &s.batch
	b.gather(v, j)
	for ; j.next != 0 && limit > 0; limit-- {
		sub := s.subs.at(j.next)
		i := sub.slot
		j.next = sub.next // before the write: a failed one removes the slot
		s.deliver(v, i, j, b)
	}
	return j.next == 0
}

// deliver brings one member up to the end of the job.
func (s *shard) deliver(v *view, i uint32, j *job, b *batch) {
	c := s.slots.at(i)
	switch {
	case c.state&slotNotLive != 0 || c.pos >= j.to:
	case c.pos < j.from && b.whole && (c.state&slotMany == 0 || s.isQuietBeside(c, j.ch)):
		s.writeBatch(i, c, b, j.to)
	default:
		s.catchUp(v, i, c)
	}
}

// isQuietBeside reports whether a slot that subscribes to several channels misses
// nothing of the others. What is added to them meanwhile comes later in the log than
// all that was scanned.
func (s *shard) isQuietBeside(c *slot, ch uint32) bool {
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		if other := s.subs.at(n).ch; other != ch && s.log.dir.at(other).last.Load() > c.pos {
			return false
		}
	}
	return true
}

// batch is a run of messages of one channel, gathered once and written to every
// member.
type batch struct {
	vec    []iovec
	frames []batchFrame
	bytes  int
	whole  bool // all messages of the run are in it
}

type batchFrame struct {
	pos  uint64
	size uint32
}

// reset empties the batch. Its pieces are cleared, they would keep segments that
// the ring has long forgotten.
func (b *batch) reset() {
	clear(b.vec)
	b.vec, b.frames, b.bytes, b.whole = b.vec[:0], b.frames[:0], 0, false
}

// add puts a frame, or what is left of it behind skip bytes, at the end. Frames
// that lie side by side in the ring become one piece.
func (b *batch) add(pos uint64, frame []byte, skip uint32) (full bool) {
	frame = frame[skip:]
	if n := len(b.vec); n == 0 || !extend(&b.vec[n-1], frame) {
		if n == maxIovecs {
			return true
		}
		b.vec = append(b.vec, piece(frame))
	}
	b.frames = append(b.frames, batchFrame{pos, uint32(len(frame))})
	b.bytes += len(frame)
	return false
}

// gather collects the job's messages. If some have left the ring, or they are
// too many for one write, the batch is not whole.
func (b *batch) gather(v *view, j *job) {
	b.reset()
	pos, lost := v.follow(j.ch, j.from-1)
	if lost {
		return
	}
	for pos != 0 && pos <= j.to {
		e, seg := v.at(pos)
		if b.bytes > catchUpBytes || b.add(pos, seg.frame(e), 0) {
			return
		}
		d := uint64(e.next.Load())
		if d == 0 {
			break
		}
		pos += d
	}
	b.whole = b.bytes > 0
}

// writeBatch writes a whole batch to a live member.
func (s *shard) writeBatch(i uint32, c *slot, b *batch, to uint64) {
	n, res := s.write(c, b.vec)
	if res == ioFailed {
		s.closeSlot(i, CloseError)
		return
	}
	if n == b.bytes {
		c.pos = to
		c.state &^= slotNoID
		s.count.delivered.Add(uint64(len(b.frames)))
		return
	}
	s.advance(c, b.frames, n)
	s.block(c)
}

// advance moves a slot over n bytes written of the frames.
func (s *shard) advance(c *slot, frames []batchFrame, n int) {
	for k, f := range frames {
		if n < int(f.size) {
			if k > 0 {
				c.off = 0
			}
			c.off += uint32(n)
			return
		}
		n -= int(f.size)
		c.pos = f.pos
		c.state &^= slotNoID
		s.count.delivered.Add(1)
	}
	c.off = 0
}

// block marks a slot whose socket is full.
func (s *shard) block(c *slot) {
	if c.state&slotBlocked == 0 {
		c.state |= slotBlocked
		s.count.slow.Add(1)
	}
	s.count.blocked.Add(1)
}

// unmarkBlocked is the opposite of block, when its socket has room or goes away.
func (s *shard) unmarkBlocked(c *slot) {
	if c.state&slotBlocked != 0 {
		c.state &^= slotBlocked
		s.count.slow.Add(-1)
	}
}

// write is one system call on a stream.
func (s *shard) write(c *slot, vec []iovec) (int, ioResult) {
	n, res := s.send(int(c.fd), vec)
	s.count.writes.Add(1)
	if n > 0 {
		c.idle = 0
		s.count.sentBytes.Add(uint64(n))
	}
	return n, res
}

// writeBytes is write for bytes outside the ring.
func (s *shard) writeBytes(c *slot, b []byte) (int, ioResult) {
	s.single[0] = piece(b)
	return s.write(c, s.single[:])
}

// catchUp writes what a slot has not received yet of the messages that the shard
// has scanned, from the ring alone.
func (s *shard) catchUp(v *view, i uint32, c *slot) {
	target := s.reader.cursor.Load() - 1
	for spent := 0; c.pos < target; {
		b := &s.own
		if !s.gatherOwn(v, c, target) {
			s.fellBehind(v, i, c)
			return
		}
		if len(b.frames) == 0 {
			c.pos = target
			return
		}
		n, res := s.write(c, b.vec)
		if res == ioFailed {
			s.closeSlot(i, CloseError)
			return
		}
		s.advance(c, b.frames, n)
		if n < b.bytes {
			s.block(c)
			return
		}
		if spent += n; spent >= catchUpBytes {
			s.later(i, c)
			return
		}
	}
}

// later gives the slot another turn in the next pass.
func (s *shard) later(i uint32, c *slot) {
	c.state |= slotQueued
	s.late = append(s.late, ref{i, c.gen})
}

// gatherOwn collects a slot's next messages over all its channels in the order
// of the log. Not ok: some of them have left the ring.
func (s *shard) gatherOwn(v *view, c *slot, target uint64) (ok bool) {
	b := &s.own
	b.reset()
	heads := s.heads[:0]
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		pos, lost := v.follow(s.subs.at(n).ch, c.pos)
		if lost {
			return false
		}
		if pos != 0 {
			heads = append(heads, pos)
		}
	}
	s.heads = heads
	skip := c.off
	for b.bytes < catchUpBytes {
		k := -1
		for h, pos := range heads {
			if pos != 0 && (k < 0 || pos < heads[k]) {
				k = h
			}
		}
		if k < 0 || heads[k] > target {
			return true
		}
		pos := heads[k]
		if pos < v.tail {
			return false
		}
		e, seg := v.at(pos)
		if b.add(pos, seg.frame(e), skip) {
			return true
		}
		skip = 0
		heads[k] = 0
		if d := uint64(e.next.Load()); d != 0 {
			heads[k] = pos + d
		}
	}
	return true
}

// fellBehind deals with a slot whose next messages have left the ring. A reader
// with a full socket is too slow: it is closed and comes back with its
// Last-Event-ID. One that only its shard kept waiting goes through the history.
func (s *shard) fellBehind(v *view, i uint32, c *slot) {
	id, known := s.log.idAt(c.pos)
	if c.off > 0 || c.state&slotBlocked != 0 || !known {
		s.closeSlot(i, CloseSlow)
		return
	}
	s.count.reattached.Add(1)
	s.resumeFrom(v, i, c, resumePoint{kind: resumeID, id: id})
}

// overrun deals with messages that left the ring before this shard scanned
// them: every member of a channel that lost some goes through catchUp. Before that, all
// get the place up to which they are complete: that of one that had nothing to get for
// long is forgotten, or far in the past.
func (s *shard) overrun(v *view) {
	s.eachLive(func(_ uint32, c *slot) { c.pos = s.upTo(c) })
	s.reader.cursor.Store(v.tail)
	s.eachLive(func(i uint32, c *slot) { s.catchUp(v, i, c) })
}

// eachLive visits the slots that get new messages straight away.
func (s *shard) eachLive(visit func(i uint32, c *slot)) {
	for i := uint32(1); i < s.slots.used; i++ {
		if c := s.slots.at(i); c.fd >= 0 && c.state&slotNotLive == 0 {
			visit(i, c)
		}
	}
}

// queue is a first-in, first-out list of jobs.
type queue struct {
	items []uint32
	head  int
}

func (q *queue) push(n uint32) {
	if q.head > 64 && q.head*2 > len(q.items) {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	q.items = append(q.items, n)
}

func (q *queue) pop() (uint32, bool) {
	if q.head == len(q.items) {
		return 0, false
	}
	q.head++
	return q.items[q.head-1], true
}

func (q *queue) empty() bool { return q.head == len(q.items) }
