package rstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// parts are the stores of one instance, one for each partition.
type parts []*Store

// writes is how many of the histories this instance writes.
func (p parts) writes() (n int) {
	for _, s := range p {
		if s.Writes() {
			n++
		}
	}
	return n
}

// partition makes the clock of each partition, and a log for each that all instances share.
func (w *world) partition(of int) (logs []*testLog) {
	w.t.Helper()
	for q := range of {
		clock := redisconn.MakePartitionKeys(testPrefix, redisconn.Partition{Number: q, Of: of}).Clock
		require.NoError(w.t, w.do("HSET", clock, "epoch", fmt.Sprintf("e%d", q), "t", fmt.Sprint(w.base)).Error())
		logs = append(logs, newTestLog(w.id(0, 0)))
	}
	return logs
}

// parts makes the stores of an instance, and runs them until stop.
func (w *world) parts(name string, logs []*testLog, options ...func(*Config)) (list parts, stop func()) {
	list = make(parts, len(logs))
	var stops []func()
	for q, log := range logs {
		cfg := w.config(name)
		cfg.Partition = redisconn.Partition{Number: q, Of: len(logs)}
		cfg.Elsewhere = func() (n int) {
			for i, s := range list {
				if i != q && s.Writes() {
					n++
				}
			}
			return n
		}
		for _, o := range options {
			o(&cfg)
		}
		list[q] = w.store(cfg, log)
	}
	for _, s := range list {
		stops = append(stops, w.start(s))
	}
	return list, func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// tickParts lets the log of every partition go on, as ticks do, until is holds.
func (w *world) tickParts(logs []*testLog, is func() bool, format string, args ...any) {
	w.t.Helper()
	at := int(time.Since(time.UnixMilli(int64(w.base))).Milliseconds()) + 1
	require.Eventually(w.t, func() bool {
		at++
		for _, log := range logs {
			log.commit(w.id(at, 0))
		}
		return is()
	}, 20*time.Second, 20*time.Millisecond, "%s", fmt.Sprintf(format, args...))
}

// TestHistoriesOfPartitionsAreApart: keys, watermarks and markers of one are not those of another.
func TestHistoriesOfPartitionsAreApart(t *testing.T) {
	w := newWorld(t)
	logs := w.partition(3)
	stores, _ := w.parts("a", logs, func(c *Config) { c.LeaseTTL = time.Hour }) // however late it is renewed
	for q, log := range logs {
		log.commit(w.id(10*(q+1), 0), message{w.id(1, 1), "c", fmt.Sprintf("of %d", q)})
	}
	for q, s := range stores {
		w.waitMark(s, w.id(10*(q+1), 0))
		r := newRecorder()
		require.NoError(t, s.Range(t.Context(), []string{"c"}, w.id(0, 0), w.id(10*(q+1), 0), r))
		require.Equal(t, []string{fmt.Sprintf("of %d", q)}, []string{r.data(0)})
		require.Empty(t, r.lost)
		require.Equal(t, "a", s.Writer())
		written, err := s.Written(t.Context())
		require.NoError(t, err)
		require.Equal(t, w.id(10*(q+1), 0), written)
		length, err := w.do("XLEN", s.keys.Stream("c")).AsInt64()
		require.NoError(t, err)
		require.EqualValues(t, 1, length)
	}
	sum := stores[0].Stats().Plus(stores[1].Stats()).Plus(stores[2].Stats())
	require.EqualValues(t, 3, sum.Appended)
	require.Equal(t, w.id(10, 0), sum.Watermark, "the lowest")
	require.True(t, sum.Writer)
}

// TestLeasesAreSpread: who writes many histories leaves a lease that is given up to others,
// and those of who stops are taken.
func TestLeasesAreSpread(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	logs := w.partition(4)
	a, stopA := w.parts("a", logs)
	w.tickParts(logs, func() bool { return a.writes() == 4 }, "a does not write all")
	b, stopB := w.parts("b", logs)
	c, _ := w.parts("c", logs)
	for _, list := range []parts{b, c} {
		for _, s := range list {
			w.tickParts(logs, func() bool { return s.Writer() == "a" }, "it does not see who writes")
		}
	}
	require.Equal(t, 4, a.writes(), "nothing is taken away")
	for _, q := range []int{0, 3} {
		// On a busy machine a may be the quickest to take it again.
		w.tickParts(logs, func() bool { a[q].Yield(); return b[q].Writes() || c[q].Writes() }, "nobody takes lease %d", q)
	}
	w.tickParts(logs, func() bool { return a.writes() == 2 && b.writes()+c.writes() == 2 }, "%d %d %d", a.writes(), b.writes(), c.writes())
	stopA()
	w.tickParts(logs, func() bool { return b.writes()+c.writes() == 4 }, "histories without a writer")
	stopB()
	w.tickParts(logs, func() bool { return c.writes() == 4 }, "c does not write all")
	for q := range logs {
		require.Equal(t, []gap{{stretch{sseproto.ID{}, w.id(0, 0)}, sseproto.ReasonOutage}}, w.markersOf(c[q]), "no gap by the hand-over")
	}
}

// TestLeaseOfWhoIsGoneIsTaken when it has run out, also by who writes others.
func TestLeaseOfWhoIsGoneIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	logs := w.partition(2)
	keys := redisconn.MakePartitionKeys(testPrefix, redisconn.Partition{Number: 1, Of: 2})
	require.NoError(t, w.do("SET", keys.Lease, "gone", "PX", "800").Error())
	a, _ := w.parts("a", logs)
	w.tickParts(logs, func() bool { return a.writes() == 2 }, "the lease is not taken")
}
