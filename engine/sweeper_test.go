package engine

import (
	"strings"
	"testing"
	"time"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"

	"github.com/stretchr/testify/require"
)

func TestMessagesGoBetweenBurstsOfHeartbeats(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.Heartbeat = time.Minute })
	const burst, bursts, rest = 50, 3, 20
	h.shares.admit, h.shares.answer, h.shares.sweep = 1000*millisecond, 1000*millisecond, burst*(callCost+slotCost)
	for range bursts*burst + rest {
		join(t, h.engine, resumePoint{}, "quiet")
	}
	live := h.arrive(t, resumePoint{}, "a")
	for i := uint32(1); i < h.slots.used; i++ {
		h.slots.at(i).idle = sweepsPerBeat - 1
	}
	due := h.sweeper.last.Add(h.sweeper.period / sweepsPerBeat)
	h.sweeper.owed = float64(h.slots.used)
	for k := range bursts {
		h.f.publish("a", "x")
		h.shard.pass(due)
		require.EqualValues(t, (k+1)*burst, h.count.heartbeats.Load())
		require.True(t, h.busy(), "the rest is not left to the next sweep")
		live.next(1)
	}
	h.shard.pass(due)
	require.EqualValues(t, bursts*burst+rest, h.count.heartbeats.Load())
	require.False(t, h.busy())
}

func TestWhoIsBehindTakesTurnsWithTheOthers(t *testing.T) {
	const behind, turns, perPass = 40, 3, 4
	h := shardByHand(t, func(cfg *Config) { cfg.RingBytes = 16 << 20 })
	first := h.f.publish("a", "first")
	var served []int // in the order of the turns
	h.send = func(fd int, vec []sock.Iovec) (n int, _ sock.Result) {
		for _, v := range vec {
			n += int(v.Len)
		}
		if n >= turnBytes {
			served = append(served, fd)
		}
		return n, sock.OK
	}
	for range turns {
		h.f.publish("a", strings.Repeat("x", turnBytes))
	}
	for range behind {
		join(t, h.engine, after(first), "a")
	}
	h.shares.answer = 1000 * millisecond
	h.pass() // all get their first turn with the answer
	require.Len(t, served, behind+perPass)
	require.Equal(t, behind, h.late.len())
	for n := behind; n < behind*turns; n = len(served) {
		require.True(t, h.busy())
		h.pass()
		require.LessOrEqual(t, len(served), n+2*perPass)
		for k := n; k < len(served); k++ {
			require.Equal(t, served[k-behind], served[k], "turn %d", k)
		}
	}
	for h.busy() { // the last finds that there is nothing more
		h.pass()
	}
	for i := uint32(1); i < h.slots.used; i++ {
		require.Equal(t, h.log.Position(), h.slots.at(i).pos)
	}
}

// TestGrantForCenturiesDoesNotEndAtOnce: seconds of the engine's life are 32 bits.
func TestGrantForCenturiesDoesNotEndAtOnce(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.Heartbeat = time.Minute })
	for _, ahead := range []time.Duration{1 << 32 * time.Second, (1<<32 - 1) * time.Second, 1<<63 - 1} {
		fd, conn := socketPair(t)
		newTestClient(t, conn)
		h.engine.conns.Add(1)
		h.engine.attach(&front.Stream{FD: fd, Channels: []string{"a"}, Since: h.log.standing(), Expires: h.engine.started.Add(ahead)})
	}
	h.pass()
	h.sweeper.owed = float64(h.slots.used)
	h.pass()
	require.Equal(t, 3, h.open)
	require.Zero(t, h.count.closed[CloseExpired].Load())
}

// TestDrainEndsAtItsDeadline: also one that is shorter than the time between two sweeps. What
// is not answered by then is left for later ones.
func TestDrainEndsAtItsDeadline(t *testing.T) {
	h := shardByHand(t, nil)
	for range 10 {
		h.arrive(t, resumePoint{}, "a")
	}
	now := time.Now()
	h.sweeper.last = now
	by := now.Add(drainEvery / 3)
	h.post(command{order: orderDrain, by: by})
	h.shard.pass(now)
	require.Equal(t, 10, h.open)
	require.Equal(t, drainEvery/3, h.sweeper.interval())
	h.shard.pass(by)
	require.Zero(t, h.open)
	require.Equal(t, drainEvery, h.sweeper.interval())
	h.arrive(t, resumePoint{}, "a")
	h.shard.pass(by.Add(drainEvery))
	require.Zero(t, h.open)
}
