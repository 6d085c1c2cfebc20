package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// whereAsk asks a shard what it knows of the slots of a channel, and what its loop has left
// to do: for the failure of a test that waits in vain.
type whereAsk struct {
	channel string
	reply   chan string
}

func (a *whereAsk) answer(s *shard) {
	var b strings.Builder
	fmt.Fprintf(&b, "shard %d: cursor %d, small %d, large %d, merges %d, late %d, arrivals %d, newcomers %d, pages %d, ahead %d, paced %d, overrun %+v, barrier %d, owed %.1f, shares %+v",
		s.number, s.reader.cursor.Load(), s.small.len(), s.large.len(), s.merges.len(), s.late.len(), s.arrivals.len(),
		s.newcomers.len(), s.pages.len(), len(s.ahead.list), s.paced.len(), s.overrun, s.barrierNext, s.sweeper.owed, s.shares)
	for i := uint32(1); i < s.slots.used; i++ {
		c := s.slots.at(i)
		if c.phase == phaseFree || !slices.Contains(s.namesOf(c), a.channel) {
			continue
		}
		id, known := s.log.idAt(c.pos)
		fmt.Fprintf(&b, "\n\tslot %d: phase %d, flags %08b, pos %d (%s %t), off %d, idle %d, channels %v", i, c.phase, c.flags, c.pos, id, known, c.off, c.idle, s.namesOf(c))
		for n := c.sub; n != 0; n = s.subs.at(n).sibling {
			ch := s.subs.at(n).ch
			fmt.Fprintf(&b, "\n\t\t%s: last %d, shards %b", s.log.dir.at(ch).name, s.log.dir.at(ch).last.Load(), s.log.dir.at(ch).shards.Load())
			if job := s.members.at(ch).job; job != 0 {
				fmt.Fprintf(&b, ", job %+v", s.jobs[job-1])
			}
		}
		if j := s.joins[i]; j != nil {
			fmt.Fprintf(&b, "\n\t\tjoining at %v, shut %t, timed %t", j.places, j.inShut, j.timed)
			for _, p := range j.parts {
				fmt.Fprintf(&b, "\n\t\t\tpartition %d: served %t, asked %t, missed %t, again %v, until %v, coverage %+v, reach %s, channels %+v", p.line.part, p.isServed, p.isAsked, p.isMissed, p.again, p.until, p.cov, p.reach, p.channels)
			}
		}
		if r := (replayWaiter{s, ref{i, c.gen}, 0}); c.phase == phaseResuming {
			s.engine.replayer.mu.Lock()
			if q := s.engine.replayer.waiters[r]; q != nil {
				fmt.Fprintf(&b, "\n\t\tasks behind %s, taken %t, read %t", q.key.id, q.isTaken, q.isRead)
			}
			s.engine.replayer.mu.Unlock()
		}
	}
	a.reply <- b.String()
}

// workAsk asks a shard whether it has anything left to do. It is answered at the end of a pass.
type workAsk struct{ reply chan bool }

func (a *workAsk) answer(s *shard) { a.reply <- s.hasWork() }

// isAtWork reports whether a loop, the replayer or the backfiller has something left to do. All
// loops have made a pass meanwhile.
func isAtWork(e *Engine) (isBusy bool) {
	for _, s := range e.shards {
		a := &workAsk{make(chan bool, 1)}
		s.post(command{ask: a})
		isBusy = <-a.reply || isBusy
	}
	e.replayer.mu.Lock()
	defer e.replayer.mu.Unlock()
	for _, line := range e.log.lines {
		isBusy = isBusy || line.oldestHeld() != nil
	}
	return isBusy || len(e.replayer.asked) > 0
}

// whereabouts tells all that the engine knows of the streams of a channel, for the message
// of a test that fails.
func whereabouts(e *Engine, channel string) string {
	var b strings.Builder
	for _, line := range e.log.lines {
		fmt.Fprintf(&b, "partition %d: coverage %+v, reached %s, ticked %s, written %s, held back %t\n",
			line.part, *line.cover.Load(), line.last(), line.ticked.Load(), line.watermark.Load(), line.oldestHeld() != nil)
	}
	e.replayer.mu.Lock()
	fmt.Fprintf(&b, "replayer: %d asked, %d wait, %d lines, %d turns\n", len(e.replayer.asked), len(e.replayer.waiters), len(e.replayer.parts[0].queue.lines), e.replayer.parts[0].queue.turns.Len())
	e.replayer.mu.Unlock()
	began := time.Now()
	for range 10 {
		isAtWork(e)
	}
	fmt.Fprintf(&b, "ten passes of each loop, one after the other: %v\n", time.Since(began))
	for _, s := range e.shards {
		a := &whereAsk{channel, make(chan string, 1)}
		s.post(command{ask: a})
		select {
		case text := <-a.reply:
			b.WriteString(text + "\n")
		case <-time.After(waitLong):
			fmt.Fprintf(&b, "shard %d does not answer\n", s.number)
		}
	}
	return b.String()
}
