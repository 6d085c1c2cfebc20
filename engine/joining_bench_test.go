package engine

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// A mass resume: an instance is gone, and its streams come back to this one at once. Each has
// four channels, in the partitions 0 to 3 where there are so many, and lacks some messages of
// each. The instances had the partitions in different orders, so no stream stands at a position
// of this ring.
const (
	massStreams  = 5000
	massGroups   = 250 // streams of a group have the same channels
	massChannels = 4
	massLacks    = 5 // messages of each channel
)

// massFeed is what a log of several partitions, or of one, got before the streams come.
type massFeed struct {
	log      *Log
	channels [][]string    // of each group
	at       []sseproto.ID // of each partition, up to where the streams have all
	newest   []sseproto.ID
}

// publishMass gives a log what the streams have and what they lack, partition by partition.
func publishMass(log *Log) *massFeed {
	partitions := log.Partitions()
	f := &massFeed{log: log, at: make([]sseproto.ID, partitions), newest: make([]sseproto.ID, partitions)}
	for group := range massGroups {
		var names []string
		for k := range massChannels {
			names = append(names, channelOfPart(fmt.Sprintf("c%d-%d-", group, k), k%partitions, partitions))
		}
		f.channels = append(f.channels, names)
	}
	low := sseproto.ID{Ms: 1000}
	for p := range partitions {
		log.Partition(p).OpenSpan(low)
		f.at[p], f.newest[p] = low, low
	}
	for p := range partitions {
		for n := range 2 * massLacks {
			for group := range massGroups {
				for k := p; k < massChannels; k += partitions {
					f.newest[p].Seq++
					log.Partition(p).Append(f.newest[p], f.channels[group][k], benchPayload)
				}
			}
			if n == massLacks-1 {
				f.at[p] = f.newest[p]
			}
		}
	}
	return f
}

// stream is one that comes back.
func (f *massFeed) stream(k int) *front.Stream {
	return &front.Stream{
		FD: -1, Head: []byte("HEAD\n"), Channels: f.channels[k%massGroups], Since: f.log.standing(),
		LastEventID: string(sseproto.AppendVector(nil, 0, f.at)), Resumes: true,
	}
}

// massShard is a shard whose slots write to /dev/null, with the streams.
type massShard struct {
	*nullShard
	*massFeed
}

func newMassShard(t testing.TB, partitions int) *massShard {
	s := newNullShardWith(t, Config{Partitions: partitions})
	return &massShard{s, publishMass(s.shard.log)}
}

// subscribeAll gives each of n streams a slot.
func (s *massShard) subscribeAll(n int) {
	for k := range n {
		i, c := s.newSlot(int(s.null.Fd()))
		c.flags |= slotMany
		for _, name := range s.channels[k%massGroups] {
			s.subscribe(i, name)
		}
	}
}

// comeBack lets n streams resume, and returns when the loop has nothing left to do.
func (s *massShard) comeBack(n int) {
	for k := range n {
		c := s.slots.at(uint32(k + 1))
		c.pos, c.phase = s.shard.log.Position(), phaseArriving
		s.newcomers.push(newcomer{ref{uint32(k + 1), c.gen}, attachmentOf(s.stream(k), s.shard.log.Partitions())})
	}
	s.passAll()
}

func (s *massShard) passAll() { byHand{s.shard, s.feed}.passAll() }

// BenchmarkMassResume is what a loop does for a stream that comes back, but for the system calls.
func BenchmarkMassResume(b *testing.B) {
	for _, partitions := range []int{1, 2, 4, 16} {
		b.Run(fmt.Sprint("partitions=", partitions), func(b *testing.B) {
			s := newMassShard(b, partitions)
			s.subscribeAll(massStreams)
			b.ReportAllocs()
			used := cpuTime()
			for b.Loop() {
				s.comeBack(massStreams)
			}
			used = cpuTime() - used
			require.EqualValues(b, b.N*massStreams, s.count.resumedRing.Load())
			require.EqualValues(b, b.N*massStreams*massChannels*massLacks, s.delivered)
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*massStreams*1000), "cpu-µs/stream")
			b.ReportMetric(float64(s.budget.writes)/float64(b.N*massStreams), "writes/stream")
		})
	}
}

// BenchmarkMassResumeSockets is the same with two loops and real sockets.
func BenchmarkMassResumeSockets(b *testing.B) {
	for _, partitions := range []int{1, 2, 4, 16} {
		b.Run(fmt.Sprint("partitions=", partitions), func(b *testing.B) {
			e := startEngine(b, func(cfg *Config) { cfg.Partitions, cfg.RingBytes = partitions, 64<<20 })
			f := publishMass(e.log)
			var cpu time.Duration
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				streams, clients := make([]*front.Stream, massStreams), make([]int, massStreams)
				for k := range streams {
					fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|sockCloexec|sockNonblock, 0)
					require.NoError(b, err)
					streams[k] = f.stream(k)
					streams[k].FD, clients[k] = fds[0], fds[1]
				}
				want, used := deliveredBy(e)+massStreams*massChannels*massLacks, cpuTime()
				b.StartTimer()
				for _, a := range streams {
					e.conns.Add(1)
					e.attach(a)
				}
				for deliveredBy(e) < want {
					time.Sleep(100 * time.Microsecond)
				}
				b.StopTimer()
				cpu += cpuTime() - used
				for _, fd := range clients {
					require.NoError(b, syscall.Close(fd))
				}
				require.Eventually(b, func() bool { return e.Stats().Streams == 0 }, waitLong, pollEvery)
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N*massStreams), "cpu-µs/stream")
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/all")
		})
	}
}

// massMemory is the heap that a stream takes, while all wait for a partition, and when they
// have joined.
func massMemory(t testing.TB, partitions int) (waiting, joined float64) {
	streams := 3 * massStreams // against the rest of the process, which is some 40 KB now and then
	if raceEnabled {
		streams = massStreams
	}
	s := newMassShard(t, partitions)
	before := heapInUse()
	perStream := func() float64 { return float64(heapInUse()-before) / float64(streams) }
	s.subscribeAll(streams)
	if partitions > 1 { // what comes of a server that was demoted does not count
		s.shard.log.Partition(1).CloseSpan(s.at[1])
	}
	s.comeBack(streams)
	s.forget(true)
	if partitions > 1 {
		require.Len(t, s.joins, streams)
		waiting = perStream()
		s.shard.log.Partition(1).OpenSpan(sseproto.ID{Ms: 2000})
		s.passAll()
	}
	require.Empty(t, s.joins)
	require.EqualValues(t, streams, s.count.resumedRing.Load())
	s.forget(true)
	joined = perStream()
	return waiting, joined
}

// TestStreamsThatHaveJoinedTakeNoMoreMemoryThanThoseOfOnePartition: the state of joining lies
// beside the slots, and is given back, the maps and queues with it.
func TestStreamsThatHaveJoinedTakeNoMoreMemoryThanThoseOfOnePartition(t *testing.T) {
	massMemory(t, 4) // what is made once, and what earlier tests have left, does not count
	_, plain := massMemory(t, 1)
	for _, partitions := range []int{4, 16} {
		waiting, joined := massMemory(t, partitions)
		t.Logf("%d partitions: %.0f B while a stream is joining, %.1f B then; with one %.1f B", partitions, waiting-plain, joined, plain)
		require.Less(t, joined-plain, 12.0, "bytes of a stream; an empty map that keeps its size takes 22 to 38")
		require.Less(t, waiting-plain, 2500.0, "bytes of a stream that is joining")
	}
}
