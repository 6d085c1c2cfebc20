package engine

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// nullShard is a shard without its loop. In benchmarks its slots all write to /dev/null:
// what is left is the cost of the engine and of one system call that does nothing. Tests
// count what it does, and need no system call.
type nullShard struct {
	*shard
	feed *feed
	null *os.File
	form form // of the slots that fill adds
}

// benchForms are the forms of streams of HTTP/1.0 and 1.1.
var benchForms = map[string]form{"plain": 0, "chunked": formChunked}

func newNullShard(b testing.TB) *nullShard { return newNullShardOf(b, 64<<20) }

func newNullShardOf(b testing.TB, ring int64) *nullShard {
	s := newNullShardWith(b, Config{RingBytes: ring})
	s.feed = startFeed(s.engine, 1000)
	return s
}

// newNullShardWith is one without a feed, in an engine with this Config.
func newNullShardWith(b testing.TB, cfg Config) *nullShard {
	cfg.Listen, cfg.Shards, cfg.Logger = []string{"127.0.0.1:0"}, 1, slog.New(slog.DiscardHandler)
	e, err := New(cfg)
	require.NoError(b, err)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(b, err)
	b.Cleanup(func() {
		e.discard()
		e.front.Close()
		_ = null.Close()
	})
	e.shards[0].send = writeNull
	if _, isTest := b.(*testing.T); isTest {
		e.shards[0].send = takeAll
	}
	return &nullShard{shard: e.shards[0], null: null}
}

// writeNull is the system call that does nothing.
func writeNull(fd int, vec []sock.Iovec) (int, sock.Result) {
	var n uintptr
	var errno unix.Errno
	if len(vec) == 1 {
		n, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(vec[0].Base)), uintptr(vec[0].Len))
	} else {
		n, _, errno = unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&vec[0])), uintptr(len(vec)))
	}
	if errno != 0 {
		return 0, sock.Failed // /dev/null takes everything
	}
	return int(n), sock.OK
}

// takeAll is writeNull without the system call.
func takeAll(_ int, vec []sock.Iovec) (n int, _ sock.Result) {
	for _, v := range vec {
		n += int(v.Len)
	}
	return n, sock.OK
}

// fill adds n slots, channel i of them each having the share that channels gives.
func (s *nullShard) fill(n int, channel func(i int) string) {
	for i := range n {
		slot, c := s.newSlot(int(s.null.Fd()))
		c.pos, c.phase, c.flags = s.log.Position(), phaseLive, s.form.flags()
		s.subscribe(slot, channel(i))
	}
}

// pass is one turn of the loop without the kernel's events.
func (s *nullShard) pass() {
	for s.busy() {
		v := s.reader.open()
		s.fanOut(&v)
		s.takeTurns(&v, &s.merges, s.shares.merge)
		s.takeTurns(&v, &s.late, s.shares.late)
		s.serveLarge(&v)
		s.forget(false)
		v.close()
		s.publishCounts()
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

var benchPayload = strings.Repeat("x", 128)

func BenchmarkFanOutNull(b *testing.B) {
	for _, slots := range []int{1_000, 100_000, 1_000_000} {
		for name, form := range benchForms {
			b.Run(fmt.Sprintf("slots=%d/%s", slots, name), func(b *testing.B) { fanOutNull(b, slots, form) })
		}
	}
}

func fanOutNull(b *testing.B, slots int, form form) {
	s := newNullShard(b)
	s.form = form
	before := heapBytes()
	s.fill(slots, func(int) string { return "all" })
	perSlot := float64(heapBytes()-before) / float64(slots)
	b.ReportAllocs()
	for b.Loop() {
		s.feed.publish("all", benchPayload)
		s.pass()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*slots), "ns/delivery")
	b.ReportMetric(perSlot, "B/slot")
	runtime.KeepAlive(s)
}

func BenchmarkFanOutNullBurst(b *testing.B) {
	for name, form := range benchForms {
		b.Run(name, func(b *testing.B) { fanOutNullBurst(b, form) })
	}
}

func fanOutNullBurst(b *testing.B, form form) {
	const slots, burst = 10_000, 100
	s := newNullShard(b)
	s.form = form
	s.fill(slots, func(int) string { return "all" })
	for b.Loop() {
		for range burst {
			s.feed.publish("all", benchPayload)
		}
		s.pass()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*slots*burst), "ns/delivery")
}

// BenchmarkBroadcastChannelNull is what everybody gets beside a channel of its own.
func BenchmarkBroadcastChannelNull(b *testing.B) {
	const slots = 100_000
	s := newNullShard(b)
	before := heapBytes()
	for i := range slots {
		slot, c := s.newSlot(int(s.null.Fd()))
		c.pos, c.phase, c.flags = s.log.Position(), phaseLive, slotMany
		s.subscribe(slot, fmt.Sprint("own", i))
		s.subscribe(slot, "all")
	}
	perSlot := float64(heapBytes()-before) / slots
	for b.Loop() {
		s.feed.publish("all", benchPayload)
		s.pass()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*slots), "ns/delivery")
	b.ReportMetric(perSlot, "B/slot")
}

// BenchmarkSpreadNull is a message to one of many small channels. What a delivery
// costs may grow with what the caches of the processor no longer hold, not with the
// number of slots as such.
func BenchmarkSpreadNull(b *testing.B) {
	for _, slots := range []int{1_000, 10_000, 1_000_000} {
		for name, form := range benchForms {
			b.Run(fmt.Sprintf("slots=%d/%s", slots, name), func(b *testing.B) { spreadNull(b, slots, form) })
		}
	}
}

func spreadNull(b *testing.B, slots int, form form) {
	const members = 10
	channels := slots / members
	s := newNullShard(b)
	s.form = form
	name := make([]string, channels)
	for i := range name {
		name[i] = fmt.Sprintf("channel-%d", i)
	}
	before := heapBytes()
	s.fill(slots, func(i int) string { return name[i%channels] })
	perSlot := float64(heapBytes()-before) / float64(slots)
	i := 0
	for b.Loop() {
		s.feed.publish(name[i*7919%channels], benchPayload)
		s.pass()
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*members), "ns/delivery")
	b.ReportMetric(perSlot, "B/slot")
	runtime.KeepAlive(s)
}

func BenchmarkLogAppend(b *testing.B) {
	for _, size := range []int{16, 128, 4096} {
		for _, channels := range []int{1, 100_000} {
			b.Run(fmt.Sprintf("bytes=%d/channels=%d", size, channels), func(b *testing.B) {
				l := newLog(64<<20, maxSegmentBytes, 1, false, func(uint64) {})
				l.OpenSpan(sseproto.ID{Ms: 1})
				name := make([]string, channels)
				for i := range name {
					name[i] = fmt.Sprintf("channel-%d", i)
				}
				payload := strings.Repeat("x", size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				i := uint64(0)
				for b.Loop() {
					i++
					l.Append(sseproto.ID{Ms: 1, Seq: i}, name[i%uint64(channels)], payload)
				}
			})
		}
	}
}

func BenchmarkCursorWalk(b *testing.B) {
	for _, channels := range []int{1, 100} {
		b.Run(fmt.Sprintf("channels=%d", channels), func(b *testing.B) {
			const missed = 1000
			s := newNullShard(b)
			s.fill(1, func(int) string { return "0" })
			for i := range missed * channels {
				s.feed.publish(fmt.Sprint(i%channels), benchPayload)
			}
			s.pass()
			v := s.reader.open()
			defer v.close()
			c := s.slots.at(1)
			b.ReportAllocs()
			for b.Loop() {
				c.pos = 0
				s.catchUp(&v, 1, c)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*missed), "ns/message")
		})
	}
}

func BenchmarkFanOutSocketpairs(b *testing.B) {
	for name, form := range benchForms {
		b.Run(name, func(b *testing.B) { fanOutSocketpairs(b, form) })
	}
}

func fanOutSocketpairs(b *testing.B, form form) {
	const clients = 1000
	e, err := New(Config{
		Listen: []string{"127.0.0.1:0"}, Shards: 1, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(b, err)
	s := &nullShard{shard: e.shards[0], feed: startFeed(e, 1000)}
	var ends []func(*testing.B)
	for range clients {
		fd, conn := socketPair(b)
		slot, c := s.newSlot(fd)
		c.pos, c.phase, c.flags = s.log.Position(), phaseLive, form.flags()
		s.subscribe(slot, "all")
		e.conns.Add(1)
		buf := make([]byte, 4096)
		ends = append(ends, func(b *testing.B) {
			if _, err := conn.Read(buf); err != nil {
				b.Fatal(err)
			}
		})
		b.Cleanup(func() { _ = conn.Close() })
	}
	b.Cleanup(func() {
		s.closeAll()
		e.discard()
		e.front.Close()
	})
	var writing time.Duration
	for b.Loop() {
		start := time.Now()
		s.feed.publish("all", benchPayload)
		s.pass()
		writing += time.Since(start)
		for _, read := range ends {
			read(b)
		}
	}
	b.ReportMetric(float64(writing.Nanoseconds())/float64(b.N*clients), "ns/delivery")
}

// BenchmarkBurstSockets is a burst over TCP, as it is written to one member after another.
// A load test tells less: how many writes a burst takes there depends on who runs when.
func BenchmarkBurstSockets(b *testing.B) {
	for name, form := range benchForms {
		b.Run(name, func(b *testing.B) { burstSockets(b, form) })
	}
}

func burstSockets(b *testing.B, form form) {
	const clients, burst = 1000, 100
	e, err := New(Config{
		Listen: []string{"127.0.0.1:0"}, Shards: 1, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(b, err)
	s := &nullShard{shard: e.shards[0], feed: startFeed(e, 1000)}
	conns := make([]net.Conn, clients)
	for i := range conns {
		var fd int
		fd, conns[i] = tcpPair(b)
		slot, c := s.newSlot(fd)
		c.pos, c.phase, c.flags = s.log.Position(), phaseLive, form.flags()
		s.subscribe(slot, "all")
		e.conns.Add(1)
	}
	b.Cleanup(func() {
		s.closeAll()
		for _, conn := range conns {
			_ = conn.Close()
		}
		e.discard()
		e.front.Close()
	})
	var writing time.Duration
	buf := make([]byte, 256<<10)
	for b.Loop() {
		for range burst {
			s.feed.publish("all", benchPayload)
		}
		w := s.counting(func() {
			start := time.Now()
			s.pass()
			writing += time.Since(start)
		})
		if w.writes != clients {
			b.Fatalf("%d writes", w.writes)
		}
		for _, conn := range conns {
			if _, err := io.ReadFull(conn, buf[:w.bytes/clients]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(writing.Nanoseconds())/float64(b.N*clients*burst), "ns/delivery")
}

func BenchmarkAttach(b *testing.B) {
	e := startEngine(b, func(cfg *Config) { cfg.Shards = 1 })
	f := startFeed(e, 1000)
	f.publish("a", benchPayload)
	b.ReportAllocs()
	for b.Loop() {
		want := e.Stats().Closed[CloseClient] + 1
		c := join(b, e, resumePoint{}, "a")
		_ = c.read()
		_ = c.conn.Close()
		for e.Stats().Closed[CloseClient] < want {
			runtime.Gosched()
		}
	}
}
