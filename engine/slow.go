package engine

import (
	"strconv"
	"time"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// Slow says what a reader gets of a channel while it is behind.
type Slow uint8

const (
	SlowAll    Slow = iota // every message, as long as the ring holds it
	SlowLatest             // the newest message alone, which is no gap
	SlowClose              // nothing: its stream is closed, and it resumes; but not before it has caught up
)

var slowNames = [...]string{"all", "latest", "close"}

// String is its name in a policy: all, latest or close.
func (s Slow) String() string {
	if int(s) < len(slowNames) {
		return slowNames[s]
	}
	return strconv.Itoa(int(s))
}

// Policy is how channels are delivered that Match matches, a glob as for PSUBSCRIBE.
type Policy struct {
	Match string
	Slow  Slow
}

// slowOf is the policy of a channel: that of the first glob that matches.
func slowOf(policies []Policy, channel string) Slow {
	for _, p := range policies {
		if sseproto.MatchGlob(p.Match, channel) {
			return p.Slow
		}
	}
	return SlowAll
}

// A reader is behind when its socket takes no more. For channels of SlowLatest that is not
// enough: before a socket is full, the kernels on both sides hold what a slow reader needs
// seconds for. At 20 KB/s and 200 KB/s of messages what was read after 12 s was 12 s old, and
// with no more than 4 KiB unsent on this side still 10 s: it lay at the reader. So such a
// stream is paced: it is behind, too, when more than paceBytes lie unread there, as its
// window tells (RFC 9293 §3.8.6). Then it waits, and gets what is newest when there is less.
// The window is a rough measure: a system counts its own overhead, up to five times the bytes
// of small messages, and makes the window smaller when it sees such. So a burst may be
// taken for a backlog. Its reader gets the newest at once or 50 ms later, and nothing is lost.
const (
	// paceBytes of 20 KB/s are 0.2 s. What was written last comes on top: its reader may have
	// it, and not told yet.
	paceBytes = 4 << 10
	// lookBytes and lookEvery: the window is looked at after so much was written, or such a
	// time, before the next message. A look takes some 1 µs, a write 5.
	lookBytes   = 1 << 10
	lookEvery   = 100 * time.Millisecond
	windowLooks = 64
	// paceEvery is how often a stream that waits is looked at.
	paceEvery = 50 * time.Millisecond
	// mostPause is the longest pause between two writes while there is something to
	// write. The window moves only with what is sent.
	mostPause = time.Second
	// sameWindows: so many writes after which the window is the same say that its reader has
	// read them, so that the window itself has become smaller.
	sameWindows = 3
	// unsentBytes bounds what the kernel holds unsent of a paced stream, closeBytes of one that
	// is closed when it is behind. With many small writes it holds some times as much.
	unsentBytes = 8 << 10
	closeBytes  = 64 << 10
	// caughtUpBytes: who has no more than that unsent when a message comes has caught up. The
	// last bytes of a backlog fill the kernel's closeBytes: without that distance the next
	// message but one would find the socket full, and close it.
	caughtUpBytes = 4 << 10
)

// pace is what a loop knows of the reader of a paced stream.
type pace struct {
	widest  uint32 // the widest window that its system has told: nothing was unread then
	window  uint32 // the one at the last look
	written int    // bytes since then
	last    int    // of them, by the last write
	looked  time.Time

	// while it is behind
	pause time.Duration // until something is written all the same
	wrote time.Time     // when that was
	had   uint32        // the window then
	same  int           // times in a row that it was as before
}

// setPace prepares a slot for the policies of its channels. O(n) for n channels.
func (s *shard) setPace(i uint32, c *slot) {
	if len(s.engine.cfg.Policies) == 0 {
		return
	}
	unsent := 0
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		switch s.log.dir.at(s.subs.at(n).ch).slow {
		case SlowClose:
			unsent = max(unsent, closeBytes)
			s.catchingUp[i] = struct{}{}
		case SlowLatest:
			if s.paces[i] == nil {
				s.paces[i] = &pace{}
				s.unread(c, s.paces[i])
			}
		}
	}
	if s.paces[i] != nil {
		unsent = unsentBytes
	}
	if unsent > 0 {
		s.budget.calls++
		sock.LimitUnsent(int(c.fd), unsent)
	}
}

// catchUpAgain keeps a slot that goes through the history once more from being closed
// meanwhile. O(n) for n channels.
func (s *shard) catchUpAgain(i uint32, c *slot) {
	if len(s.engine.cfg.Policies) == 0 {
		return
	}
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		s.budget.looks++
		if s.log.dir.at(s.subs.at(n).ch).slow == SlowClose {
			s.catchingUp[i] = struct{}{}
			return
		}
	}
}

// noteCaughtUp looks at a live slot, before a message is written, whether the kernel has
// sent what it had to catch up with. Where the kernel does not tell, to be live is enough.
func (s *shard) noteCaughtUp(i uint32, c *slot) {
	if _, isCatchingUp := s.catchingUp[i]; !isCatchingUp {
		return
	}
	s.budget.looks += windowLooks
	if unsent, ok := sock.Unsent(int(c.fd), &s.tcpInfo); !ok || unsent <= caughtUpBytes {
		delete(s.catchingUp, i)
	}
}

// closeIfSlow closes a slot whose socket is full when the channel of the job wants that. One
// that has not caught up since it came is spared: with a long backlog on a busy channel it
// would be closed, come back and be closed again, and hardly get on.
func (s *shard) closeIfSlow(i uint32, c *slot, j *job) {
	if j.slow != SlowClose || c.phase != phaseBlocked {
		return
	}
	if _, isCatchingUp := s.catchingUp[i]; !isCatchingUp {
		s.closeSlot(i, CloseSlow)
	}
}

// unread is about how many bytes lie unread at the client: by so much the window is smaller
// than it was at its widest. A unix socket does not tell.
func (s *shard) unread(c *slot, p *pace) int {
	s.budget.looks += windowLooks
	p.written, p.looked = 0, s.began
	window, ok := sock.Window(int(c.fd), &s.tcpInfo)
	if !ok {
		return 0
	}
	p.window, p.widest = window, max(p.widest, window)
	return int(p.widest - window)
}

// fallsBehind reports whether the job passes a live slot by, because too much lies unread
// at its client. Then it has its turn when there is less. Who was behind a moment ago gets the
// newest of several messages, too.
func (s *shard) fallsBehind(i uint32, c *slot, j *job) bool {
	p := s.paces[i]
	if p == nil {
		return false
	}
	wasBehind := s.began.Sub(p.wrote) <= mostPause
	isDue := p.written >= lookBytes || s.began.Sub(p.looked) >= lookEvery
	if !(wasBehind && j.from != j.to) && (!isDue || s.unread(c, p) <= paceBytes+p.last) {
		return false
	}
	if !wasBehind {
		p.pause, p.wrote, p.had = paceEvery, s.began, p.window
	}
	s.queueLive(i)
	s.later(i)
	return true
}

// mayWrite reports whether a slot that is behind may be written to now. If not, it waits.
func (s *shard) mayWrite(i uint32, c *slot) bool {
	p := s.paces[i]
	if p == nil || s.unread(c, p) <= paceBytes+p.last {
		return true
	}
	if s.began.Sub(p.wrote) < p.pause {
		s.enter(c, phasePaced)
		s.paced.push(ref{i, c.gen})
		return false
	}
	if p.window > p.had {
		p.pause = paceEvery
	} else {
		p.pause = min(2*max(p.pause, paceEvery), mostPause)
	}
	if p.window != p.had {
		p.same = 0
	} else if p.same++; p.same == sameWindows {
		p.widest, p.same = p.window, 0
	}
	p.wrote, p.had = s.began, p.window
	p.written = lookBytes // the next message comes after another look
	return true
}

// notePace counts what was written to a slot.
func (s *shard) notePace(i uint32, n int) {
	if p := s.paces[i]; p != nil {
		p.written += n
		p.last = n
	}
}

// takePaced gives those who wait a turn, when they have waited for paceEvery.
func (s *shard) takePaced() {
	if s.paced.empty() {
		return
	}
	if s.pacedOwed == 0 && s.began.Sub(s.pacedAt) >= paceEvery {
		s.pacedOwed, s.pacedAt = s.paced.len(), s.began
	}
	s.budget.begin(s.shares.paced)
	for s.pacedOwed > 0 {
		s.pacedOwed--
		s.budget.slots++
		r := s.paced.pop()
		if c := s.slots.at(r.slot); c.gen == r.gen && c.phase == phasePaced {
			s.later(r.slot)
		}
		if s.budget.spent() {
			return
		}
	}
}

// untilPaced is the time to the next look at those who wait, in milliseconds, rounded up.
func (s *shard) untilPaced() int {
	left := paceEvery - time.Since(s.pacedAt)
	return int(max(left+time.Millisecond-1, 0) / time.Millisecond)
}

// newest returns the position of a channel's last message behind pos and up to target, with
// all gap events behind it. None: 0. Lost means that it has left the ring, or that what
// has may have been it.
//
// It costs O(log n) of the n messages behind target, and O(1) for each of up to
// newestGaps gap events.
func (v *view) newest(ch uint32, pos, target uint64) (last uint64, lost bool) {
	v.r.budget.looks++
	last = v.r.log.dir.at(ch).last.Load()
	if last <= pos {
		return 0, false
	}
	if last >= v.head {
		v.refresh()
	}
	if last < v.tail {
		return 0, true
	}
	e, _ := v.at(last)
	for gaps := 0; last > target || !e.isMessage(); e, _ = v.at(last) {
		if d := uint64(e.skip); d != 0 && last > target+d && last-d >= v.tail {
			last -= d
			continue
		}
		d := uint64(e.prev)
		switch {
		case d == 0 || last-d <= pos:
			if last > target {
				return 0, false
			}
			return last, false // nothing but gap events
		case last-d < v.tail:
			return 0, true
		}
		if last <= target {
			if gaps++; gaps > newestGaps {
				return v.follow(ch, pos)
			}
		}
		last -= d
	}
	return last, false
}

// newestGaps: a channel without messages between so many lost links is sent like any other.
const newestGaps = 64

// nextOf returns the position of a slot's next message of one of its channels behind pos
// and up to target; none: 0. For a slot that is behind it is the newest where the policy of
// the channel says so. Lost means that it has left the ring.
func (s *shard) nextOf(v *view, c *slot, ch uint32, pos, target uint64, isBehind bool) (next uint64, lost bool) {
	if !isBehind || s.log.dir.at(ch).slow != SlowLatest {
		if next, lost = v.follow(ch, pos); next > target {
			next = 0
		}
		return next, lost
	}
	if c.off > 0 { // a message is half written, and comes first
		at := c.pos + 1
		if at < v.tail {
			return 0, true
		}
		if e, _ := v.at(at); e.ch == ch {
			return at, false
		}
	}
	return v.newest(ch, pos, target)
}
