package engine

import (
	"time"

	"ssed/engine/internal/sock"
)

// A job brings new messages of one channel to its members in this shard. It lives over
// several passes when there are many members, or many jobs.
//
// It may outlive its members: they leave one by one (leave), and the job ends when it is
// its turn and nobody is left to serve. The channel's index may have another name by
// then, but only after its messages have left the ring; so a job that finds its messages
// gone brings nothing to anybody.
type job struct {
	ch       uint32
	next     uint32 // subscription to serve next; 0: all served
	from, to uint64 // positions of the first message that it brings, and of the last or behind it
	more     uint64 // position of the first one that is left for another job; 0: none
	started  bool   // to is fixed, and newer messages are more
	slow     Slow   // the channel's policy
	came     moment // before which none of its messages was in the log
	moreCame moment // the same for the others
}

// leave keeps the job's place when subscription n goes away.
func (j *job) leave(n, next uint32) {
	if j.next == n {
		j.next = next
	}
}

// add gives the job a newer message of its channel.
func (j *job) add(pos uint64, came moment) {
	switch {
	case !j.started && j.more == 0:
		j.to = pos
	case j.more == 0:
		j.more, j.moreCame = pos, came
	}
}

// has reports whether the job, or what is left for the one after it, has a message beyond
// after and up to end.
func (j *job) has(after, end uint64) bool {
	return j.from <= end && j.to > after || j.more != 0 && j.more <= end
}

const (
	// smallChannel: up to this many members a channel is served ahead of large ones: at
	// about 5 µs a write that is a third of a millisecond.
	smallChannel = 64
	// crowd is the number of channels beyond which a slot gets the messages of all of them
	// at once as soon as there is more than one job.
	crowd = 64
	// sliceMembers is how many members of a large channel are served before it is the
	// turn of another one.
	sliceMembers = 96
	// scanEntries bounds the messages looked at in one pass, so that a burst
	// becomes few large writes but does not keep the sockets waiting.
	scanEntries = 4096
)

// overrun is what is left to do because messages left the ring before this shard scanned
// them: every slot that is live has to go from the place up to which it is complete, which
// is not pos for who had nothing to get for long. Nothing is scanned before all are looked at.
type overrun struct {
	from uint64 // up to here, exclusively, the loop had scanned
	next uint32 // slot to look at next; 0: there is no overrun
}

// fanOut looks at new messages and brings those of small channels to their subscribers.
func (s *shard) fanOut(v *view) {
	if !s.mayScan(v) {
		return
	}
	s.clock.advance(s.reader.cursor.Load(), v.head, s.engine.moment(s.began))
	s.scan(v)
	s.serveSmall(v)
}

// mayScan reports whether the shard may go on from its cursor: no slot is before a
// barrier, and none of what lies before it is left undone.
func (s *shard) mayScan(v *view) bool {
	s.budget.begin(s.shares.walk)
	for {
		if !s.passBarriers() { // after each look at the slots: the view may have grown
			return false
		}
		if s.overrun.next == 0 {
			cursor := s.reader.cursor.Load()
			if cursor >= v.tail {
				return true
			}
			s.overrun = overrun{from: cursor, next: 1}
			s.reader.cursor.Store(v.tail)
		}
		if !s.walk(&s.overrun.next, s.afterOverrun) {
			return false
		}
	}
}

// afterOverrun lets a live slot catch up from where it is complete. One that is joining may
// wait for what was not scanned.
func (s *shard) afterOverrun(i uint32, c *slot) {
	switch c.phase {
	case phaseLive:
		s.queueLive(i)
		s.later(i)
	case phaseJoining:
		s.later(i)
	}
}

// walk visits the open slots from next on, as many as the budget allows. Done: all, and
// next is 0.
func (s *shard) walk(next *uint32, visit func(i uint32, c *slot)) (done bool) {
	for *next < s.slots.used {
		s.budget.slots++
		if c := s.slots.at(*next); c.phase != phaseFree {
			visit(*next, c)
		}
		*next++ // behind the visit: until then the slot is one that is not looked at, see upTo
		if s.budget.spent() && *next < s.slots.used {
			return false
		}
	}
	*next = 0
	return true
}

// scan looks at new messages and makes or extends jobs for channels with members.
func (s *shard) scan(v *view) {
	cursor := s.reader.cursor.Load()
	end := min(v.head, cursor+scanEntries)
	s.budget.looks += int64(end - min(cursor, end))
	for cursor < end {
		seg, first, stop := v.run(cursor, end)
		for ; cursor < stop; cursor++ {
			ch := seg.entries[cursor-first].ch
			if m := s.members.find(ch); m != nil && m.first != 0 {
				s.assign(m, ch, cursor)
			}
		}
	}
	s.reader.cursor.Store(cursor)
}

// assign gives a new message to the channel's job.
func (s *shard) assign(m *members, ch uint32, pos uint64) {
	if m.job != 0 {
		s.jobs[m.job-1].add(pos, s.clock.came)
		return
	}
	n := s.takeJob()
	s.jobs[n] = job{ch: ch, from: pos, to: pos, came: s.clock.came, slow: s.log.dir.at(ch).slow}
	m.job = n + 1
	if m.count <= smallChannel {
		s.small.push(n)
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

// serveSmall does the jobs of small channels, in the order in which they came.
func (s *shard) serveSmall(v *view) {
	s.budget.begin(s.shares.small)
	for !s.small.empty() {
		if n := s.small.first(); s.serve(v, n, smallChannel) {
			s.small.pop()
			if s.finish(n) {
				s.small.push(n)
			}
		}
		if s.budget.spent() {
			break
		}
	}
	s.noteLags()
}

// serveLarge does a slice of each large job, in turn.
func (s *shard) serveLarge(v *view) {
	s.budget.begin(s.shares.large)
	for n := s.large.len(); n > 0; n-- {
		j := s.large.pop()
		if !s.serve(v, j, sliceMembers) || s.finish(j) {
			s.large.push(j)
		}
		if s.budget.spent() {
			break
		}
	}
	s.noteLags()
}

// finish ends a job whose members are all served, unless there is more for them.
func (s *shard) finish(n uint32) (again bool) {
	j := &s.jobs[n]
	m := s.members.at(j.ch)
	if s.gatheredFrom == j.from {
		s.gathered = 0
	}
	if j.more != 0 && m.count > 0 {
		*j = job{ch: j.ch, from: j.more, to: s.reader.cursor.Load() - 1, came: j.moreCame, slow: j.slow}
		return true
	}
	m.job = 0
	s.members.left(j.ch)
	s.freeJobs = append(s.freeJobs, n)
	return false
}

// serve writes the job's messages to up to limit members, fewer when the budget is spent,
// and reports whether all are served.
func (s *shard) serve(v *view, n uint32, limit int) (done bool) {
	j := &s.jobs[n]
	delivered := s.delivered
	if s.gatheredFrom != j.from || j.from < v.tail {
		s.gathered, s.gatheredFrom = 0, j.from
	}
	if !j.started {
		j.started = true
		j.next = s.members.at(j.ch).first
	}
	for ; j.next != 0 && limit > 0; limit-- {
		sub := s.subs.at(j.next)
		i := sub.slot
		j.next = sub.next // before the write: a failed one removes the slot
		s.deliver(v, i, s.slots.at(i), j)
		if s.budget.spent() {
			break
		}
	}
	s.addLag(j.came, s.delivered-delivered)
	return j.next == 0
}

// deliver brings one member up to the end of the job.
func (s *shard) deliver(v *view, i uint32, c *slot, j *job) {
	s.budget.slots++
	if c.phase != phaseLive || c.pos >= j.to {
		if c.phase == phaseJoining { // it may be for this message that it waits
			s.later(i)
		}
		s.closeIfSlow(i, c, j)
		return
	}
	switch j.slow {
	case SlowLatest:
		if s.fallsBehind(i, c, j) {
			return
		}
	case SlowClose:
		s.noteCaughtUp(i, c)
	}
	if c.pos < j.from && s.isQuietBeside(c, j) {
		if b := s.batchOf(v, c.form(), j); b.whole {
			before := s.budget.bytes
			s.writeBatch(i, c, b, j.to)
			if j.slow != SlowAll {
				s.notePace(i, int(s.budget.bytes-before))
				s.closeIfSlow(i, c, j)
			}
			return
		}
	}
	s.mergeSoon(i, j.came)
}

// batchOf returns the job's messages in a form, gathered for the first member that takes
// them. The batches of all forms end at the same message.
func (s *shard) batchOf(v *view, f form, j *job) *batch {
	b := &s.batches[f]
	if s.gathered&(1<<f) == 0 {
		s.gathered |= 1 << f
		b.form = f
		b.gather(v, j)
	}
	return b
}

// isQuietBeside reports whether a live slot misses nothing of other channels up to the
// end of the job: what it misses are messages of jobs. A slot of a crowd of channels is
// not asked, while there are other jobs: to get the messages of all at once costs no more.
// O(n) for n channels, at most crowd.
func (s *shard) isQuietBeside(c *slot, j *job) bool {
	if !c.has(slotMany) || len(s.jobs)-len(s.freeJobs) == 1 {
		return true
	}
	if c.has(slotCrowd) {
		return false
	}
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		sub := s.subs.at(n)
		s.budget.looks++
		if other := s.members.at(sub.ch).job; other != 0 && sub.ch != j.ch && s.jobs[other-1].has(c.pos, j.to) {
			return false
		}
	}
	return true
}

// split ends a job at last and leaves what begins at more for another one.
func (j *job) split(last, more uint64) {
	j.to, j.more, j.moreCame = last, more, j.came
}

// writeBatch writes a whole batch to a live member.
func (s *shard) writeBatch(i uint32, c *slot, b *batch, to uint64) {
	n, res := s.write(c, b.vec)
	if res == sock.Failed {
		s.closeSlot(i, CloseError)
		return
	}
	if n == b.bytes {
		c.pos = to
		if b.named {
			c.flags &^= slotNoID
		}
		s.delivered += uint64(len(b.frames))
		return
	}
	s.advance(c, b.frames, n)
	s.block(c)
}

// advance moves a slot over n bytes written of the frames, to right before the first one
// that is not written whole.
func (s *shard) advance(c *slot, frames []batchFrame, n int) {
	for k, f := range frames {
		if n < int(f.size) {
			if k > 0 {
				c.off = 0
			}
			c.off += uint32(n)
			c.pos = f.pos - 1
			return
		}
		n -= int(f.size)
		c.pos = f.pos
		if f.named {
			c.flags &^= slotNoID
		}
		s.delivered++
	}
	c.off = 0
}

// block marks a slot whose socket is full.
func (s *shard) block(c *slot) {
	s.enter(c, phaseBlocked)
	s.count.blocked.Add(1)
	if s.starved {
		c.flags |= slotStarved
	}
}

// write is one system call on a stream.
func (s *shard) write(c *slot, vec []sock.Iovec) (int, sock.Result) {
	n, res := s.send(int(c.fd), vec)
	s.budget.writes++
	s.starved = res == sock.Starved
	if n > 0 {
		c.idle = 0
		s.budget.bytes += int64(n)
		s.budget.queued += int64(max(n-usualWindow, 0))
	}
	return n, res
}

// writeBytes is write for bytes outside the ring.
func (s *shard) writeBytes(c *slot, b []byte) (int, sock.Result) {
	s.single[0] = sock.Piece(b)
	return s.write(c, s.single[:])
}

// lagSample tells that a number of messages was delivered which came after a moment.
type lagSample struct {
	came moment
	n    uint64
}

// addLag notes deliveries of a job.
func (s *shard) addLag(came moment, n uint64) {
	if k := len(s.lags) - 1; k >= 0 && s.lags[k].came == came {
		s.lags[k].n += n
		return
	}
	if n > 0 {
		s.lags = append(s.lags, lagSample{came, n})
	}
}

// noteLags observes how long the messages of a stage had waited when they were written,
// by one look at the clock.
func (s *shard) noteLags() {
	if len(s.lags) == 0 {
		return
	}
	now := s.engine.moment(time.Now())
	for _, l := range s.lags {
		s.count.lag.observe(now-l.came, l.n)
	}
	s.lags = s.lags[:0]
}
