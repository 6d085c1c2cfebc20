package fleet

import "sync/atomic"

// Stats is a snapshot of counters since New.
type Stats struct {
	Beats, BeatErrors     uint64         // reports taken by Redis, and not
	Asked                 uint64         // questions of this instance
	Busy                  uint64         // questions of this instance that were not asked: too many at once
	Answers, AnswerErrors uint64         // questions of others that were answered, and not
	Dropped               uint64         // questions of others beyond the bound, or too old
	Mismatches            map[string]int // how many others have a setting otherwise, by its name
	LearnErrors           uint64         // lists of who is kept out that could not be read
}

type counters struct {
	beats, beatErrors, asked, busy, answers, answerErrors, dropped, learnErrors atomic.Uint64

	mismatches atomic.Pointer[map[string]int] // replaced as a whole
	others     atomic.Int64                   // that the last report met
}

// Others is how many other instances there are, as the last report met them.
func (f *Fleet) Others() int { return int(f.counters.others.Load()) }

// Stats returns the counters. Safe for concurrent use.
func (f *Fleet) Stats() Stats {
	c := &f.counters
	s := Stats{
		Beats: c.beats.Load(), BeatErrors: c.beatErrors.Load(), Asked: c.asked.Load(), Busy: c.busy.Load(),
		Answers: c.answers.Load(), AnswerErrors: c.answerErrors.Load(), Dropped: c.dropped.Load(),
		LearnErrors: c.learnErrors.Load(),
	}
	if m := c.mismatches.Load(); m != nil {
		s.Mismatches = *m
	}
	return s
}
