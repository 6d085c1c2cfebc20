package rstore

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

var seeds = flag.Int("seeds", 60, "how many seeds the model plays; a third of them with -race")

// Random interleavings of publishing, evictions, holes, lost leases, forced
// writers, FLUSHALL, a watermark set back (failover to a lagging replica), cut
// connections and zombies, against real Redis. Whatever happens: a stream holds
// each message once and in order, and what it lacks is covered by a marker. In every
// third run writers have TTLs and policies of their own, some so short that streams expire,
// some without a history, and somebody deletes the gap markers: a reader is told of whatever it does not get.
func TestRandomFaultsLoseNothingSilently(t *testing.T) {
	t.Parallel()
	runs := *seeds
	if raceEnabled {
		runs /= 3 // three times as dear
	}
	if testing.Short() {
		runs = 10
	}
	w := newWorld(t)
	for seed := range runs {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			require.NoError(t, w.do("FLUSHALL").Error())
			m := &model{world: w, rnd: rand.New(rand.NewPCG(uint64(seed), 1)), t: t, forgets: seed%3 == 0}
			m.play()
		})
	}
}

type model struct {
	*world
	t       *testing.T
	rnd     *rand.Rand
	now     int // tick
	forgets bool
	epoch   int
	all     []message
	logs    []*testLog
	writers []*writer
	zombies []zombie
}

// zombie is a batch that was collected and not sent yet.
type zombie struct {
	w       *writer
	epoch   string
	batches []*batch
}

func (m *model) play() {
	m.tickEpoch()
	for i := range 3 {
		log := newTestLog(m.id(m.now, 0))
		cfg := m.config(fmt.Sprint("i", i))
		cfg.GapWait, cfg.LeaseTTL, cfg.BatchSize = 2*time.Millisecond, 8*time.Millisecond, 7
		cfg.FlushInterval = 1
		if m.forgets && m.rnd.IntN(2) == 0 {
			cfg.TTL = time.Duration(1+m.rnd.IntN(20)) * time.Millisecond
		}
		if m.forgets && m.rnd.IntN(3) > 0 {
			cfg.Policies = m.policies()
		}
		m.logs = append(m.logs, log)
		m.writers = append(m.writers, &writer{Store: m.store(cfg, log)})
	}
	for range 150 {
		m.move()
	}
	m.zombiesWake()
	m.publish()
	m.settleAll()
	if m.forgets {
		m.checkReads()
	} else {
		m.check()
	}
}

// policies are some that match a part of the channels ch0 to ch2, in any order.
func (m *model) policies() (list []Policy) {
	for _, match := range []string{"ch0", "ch[01]", "*1", "ch*"} {
		switch p := (Policy{Match: match}); m.rnd.IntN(4) {
		case 0:
			p.Off = true
			list = append(list, p)
		case 1:
			p.TTL = time.Duration(1+m.rnd.IntN(20)) * time.Millisecond
			list = append(list, p)
		case 2:
			p.MaxLen = 1
			list = append(list, p)
		}
	}
	m.rnd.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	return list
}

// checkReads reads every channel from every position: what does not come is told.
func (m *model) checkReads() {
	end, told, missing := m.id(m.now, 0), 0, 0
	for ch := range 3 {
		channel := fmt.Sprint("ch", ch)
		for i := 0; i < len(m.all); i += 1 + m.rnd.IntN(20) {
			from := m.all[i]
			r := newRecorder()
			through, err := m.writers[0].Merge(m.ctx(), []string{channel}, nil, from.id, end, 1<<30, r)
			require.NoError(m.t, err)
			require.Equal(m.t, end, through)
			got := map[sseproto.ID]bool{}
			for _, e := range r.events[0] {
				got[e.id] = true
			}
			told += len(r.lost[0])
			for _, msg := range m.all {
				if msg.channel == channel && from.id.Less(msg.id) && !got[msg.id] {
					missing++
					if len(r.lost) == 0 {
						require.Fail(m.t, "a loss without a word", "behind %v nothing tells that %v is missing; clock %v", from.id, msg.id, m.clockHash())
					}
				}
			}
		}
	}
	m.t.Logf("%d messages, %d times told, %d times one missing", len(m.all), told, missing)
}

func (m *model) clockHash() map[string]string {
	hash, err := m.do("HGETALL", redisconn.MakeKeys(testPrefix).Clock).AsStrMap()
	require.NoError(m.t, err)
	return hash
}

func (m *model) tickEpoch() {
	m.epoch++
	m.clock(fmt.Sprint("e", m.epoch))
}

func (m *model) move() {
	i := m.rnd.IntN(len(m.writers))
	wr, log := m.writers[i], m.logs[i]
	switch p := m.rnd.IntN(100); {
	case p < 35:
		m.publish()
	case p < 75:
		wr.lookAt = time.Time{}
		wr.step(m.ctx(), true)
	case p < 80: // believes to hold the lease
		if wr.epoch != "" {
			wr.state = writing
		}
	case p < 84:
		require.NoError(m.t, m.do("DEL", wr.keys.Lease).Error())
	case p < 88: // collects, and is stopped
		if wr.read() == wr.watermark && len(wr.queue.batches) > 0 {
			m.zombies = append(m.zombies, zombie{wr, wr.epoch, wr.queue.batches})
		}
	case p < 91:
		m.zombiesWake()
	case p < 93:
		log.evict(m.id(m.now-m.rnd.IntN(4), 0))
	case p < 95: // its link was cut
		m.now++
		log.hole(m.id(m.now, 0))
	case p < 97:
		require.NoError(m.t, m.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Error())
	case p < 98 && m.forgets:
		require.NoError(m.t, m.do("DEL", redisconn.MakeKeys(testPrefix).Gaps).Error())
	case p < 98:
		require.NoError(m.t, m.do("SCRIPT", "FLUSH").Error())
	case p < 99:
		require.NoError(m.t, m.do("FLUSHALL").Error())
		m.tickEpoch()
	default:
		m.rollBack()
	}
}

// publish is a tick's worth of messages, seen by all instances that are linked.
func (m *model) publish() {
	messages := m.burst(m.now, m.rnd.IntN(20), 3)
	m.now++
	m.all = append(m.all, messages...)
	for _, log := range m.logs {
		log.commit(m.id(m.now, 0), messages...)
	}
}

func (m *model) zombiesWake() {
	for _, z := range m.zombies {
		calls := make([]redisconn.Call, len(z.batches))
		for i, b := range z.batches {
			calls[i] = z.w.appendCall(z.epoch, b)
		}
		z.w.run(m.ctx(), appendScript, calls...)
	}
	m.zombies = nil
}

// rollBack takes the last message and the watermark away, as a failover to a
// replica that lags does.
func (m *model) rollBack() {
	mark := m.watermark()
	for i := len(m.all) - 1; i >= 0; i-- {
		last := m.all[i]
		if mark.Less(last.id) {
			continue
		}
		if !m.forgetLast(testPrefix+last.channel, last.id) {
			return
		}
		before := sseproto.ID{Ms: last.id.Ms, Seq: last.id.Seq - 1}
		require.NoError(m.t, m.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "watermark", before.String(), "horizon_mark", before.String(), "policies_mark", before.String()).Error())
		return
	}
}

// forgetLast makes a stream anew without its last entry, which the replica never knew.
// False: that is not the last one.
func (m *model) forgetLast(stream string, id sseproto.ID) bool {
	entries, err := m.do("XRANGE", stream, "-", "+").AsXRangeSlices()
	require.NoError(m.t, err)
	n := len(entries) - 1
	if n < 0 || entries[n].ID != id.String() {
		return false
	}
	left, err := m.do("PTTL", stream).AsInt64()
	require.NoError(m.t, err)
	require.NoError(m.t, m.do("DEL", stream).Error())
	for _, e := range entries[:n] {
		words := []string{"XADD", stream, e.ID}
		for _, f := range e.FieldValues {
			words = append(words, f.Field, f.Value)
		}
		require.NoError(m.t, m.do(words...).Error())
	}
	if n > 0 {
		require.NoError(m.t, m.do("PEXPIRE", stream, fmt.Sprint(left)).Error())
	}
	return true
}

func (m *model) watermark() sseproto.ID {
	text, err := m.do("HGET", redisconn.MakeKeys(testPrefix).Clock, "watermark").ToString()
	if err != nil {
		return sseproto.ID{}
	}
	id, err := sseproto.ParseID(text)
	require.NoError(m.t, err)
	return id
}

func (m *model) settleAll() {
	require.Eventually(m.t, func() bool {
		for _, wr := range m.writers {
			wr.lookAt = time.Time{}
			wr.step(m.ctx(), true)
		}
		return m.watermark() == m.id(m.now, 0)
	}, time.Minute, time.Millisecond)
}

func (m *model) check() {
	stored := map[sseproto.ID]bool{}
	for ch := range 3 {
		var last sseproto.ID
		for _, e := range m.history(fmt.Sprint("ch", ch)) {
			require.True(m.t, last.Less(e.id), "order")
			last = e.id
			stored[e.id] = true
		}
	}
	for _, z := range m.writers {
		require.Zero(m.t, z.Stats().RefusedMessages, "a stream was offered an old message")
	}
	markers := m.markers()
	known := map[sseproto.ID]bool{}
	lost := 0
	for _, msg := range m.all {
		known[msg.id] = true
		if stored[msg.id] {
			continue
		}
		lost++
		covered := false
		for _, g := range markers {
			covered = covered || g.from.Less(msg.id) && !g.to.Less(msg.id)
		}
		require.True(m.t, covered, "message %v is neither in the history nor under a marker %v", msg.id, markers)
	}
	for id := range stored {
		require.True(m.t, known[id], "invented %v", id)
	}
	m.t.Logf("%d messages, %d under %d markers", len(m.all), lost, len(markers))
}
