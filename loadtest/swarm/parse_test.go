//go:build linux

package swarm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"ssed/loadtest/payload"
)

const testChannel = 7

const plainHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

func frame(seq uint32, size int) string {
	body := payload.Append(nil, testChannel, seq, 1000, size)
	return fmt.Sprintf("id: 17-%d\ndata: %s\n\n", seq, body)
}

func newConn() *conn {
	c := &conn{channel: testChannel, state: stateHead}
	c.restart()
	c.expect(1)
	return c
}

// read feeds a stream in pieces of n bytes (0: at once) and returns the counts.
func read(t *testing.T, c *conn, stream string, n int) Counts {
	t.Helper()
	var s Stats
	for b := []byte(stream); len(b) > 0; {
		k := len(b)
		if n > 0 {
			k = min(k, n)
		}
		if err := c.feed(b[:k], &s, 2000); err != nil {
			require.NoError(t, err)
		}
		b = b[k:]
	}
	require.Equal(t, s.Delivered, s.Latency.Count())
	return s.Counts
}

func TestSlotStaysWithin128Bytes(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(conn{}), uintptr(128))
}

func TestStreamsAreJudged(t *testing.T) {
	f := func(name string, seqs []uint32, last uint32, want Counts) {
		t.Helper()
		stream := plainHead
		for _, seq := range seqs {
			stream += frame(seq, 100)
		}
		c := newConn()
		var tail Stats
		got := read(t, c, stream, 0)
		c.audit(last, &tail)
		got.Add(tail.Counts)
		require.Equal(t, want, got, name)
	}
	f("whole", []uint32{1, 2, 3}, 3, Counts{Delivered: 3})
	f("nothing came", nil, 4, Counts{Lost: 4})
	f("first missing", []uint32{2, 3}, 3, Counts{Delivered: 2, Lost: 1})
	f("middle missing", []uint32{1, 4}, 4, Counts{Delivered: 2, Lost: 2})
	f("tail missing", []uint32{1, 2}, 5, Counts{Delivered: 2, Lost: 3})
	f("repeated", []uint32{1, 2, 2, 3, 1}, 3, Counts{Delivered: 3, Duplicates: 2})
	f("swapped", []uint32{1, 3, 2, 4}, 4, Counts{Delivered: 4, Late: 1})
	f("late one repeated", []uint32{1, 3, 2, 2}, 3, Counts{Delivered: 3, Late: 1, Duplicates: 1})
	f("lost, late and repeated", []uint32{1, 5, 3, 3, 6}, 7, Counts{Delivered: 4, Lost: 3, Late: 1, Duplicates: 1})
	f("older than remembered", []uint32{34, 2}, 34, Counts{Delivered: 1, Lost: 33, Duplicates: 1})
	f("as old as remembered", []uint32{34, 3}, 34, Counts{Delivered: 2, Lost: 32, Late: 1})
	f("far jump", []uint32{1, 100, 99}, 100, Counts{Delivered: 3, Lost: 97, Late: 1})
	f("reversed", []uint32{4, 3, 2, 1}, 4, Counts{Delivered: 4, Late: 3})
}

func TestBadEventsAreCounted(t *testing.T) {
	whole := string(payload.Append(nil, testChannel, 1, 0, 100))
	f := func(name, events string, want Counts) {
		t.Helper()
		for _, n := range []int{0, 1, 3} {
			require.Equal(t, want, read(t, newConn(), plainHead+events, n), "%s, pieces of %d", name, n)
		}
	}
	f("too short", "data: "+whole[:99]+"\n\n", Counts{Torn: 1})
	f("too long", "data: "+whole+".\n\n", Counts{Torn: 1})
	f("cut in the digits", "data: "+whole[:20]+"\n\n", Counts{Torn: 1})
	f("no digits", "data: ~lt:zz\n\n", Counts{Torn: 1})
	f("two frames mixed", "data: "+whole[:60]+"data: "+whole+"\n\n", Counts{Torn: 1})
	f("other channel", "data: "+string(payload.Append(nil, 8, 1, 0, 100))+"\n\n", Counts{Misrouted: 1})
	f("no body", "data: hello\n\n", Counts{Foreign: 1})
	f("gap", "event: gap\nid: 5-1\ndata: {}\n\n", Counts{Gaps: 1})
	f("not quite gap", "event: gaps\ndata: {}\n\n", Counts{Foreign: 1})
	f("heartbeats and retry", ":\n: x\nretry: 100\n:\n\n\nid\ndata\nevents: x\n\n", Counts{})
}

func TestWordingsOfAnEventAreAllRead(t *testing.T) {
	body := string(payload.Append(nil, testChannel, 1, 0, 100))
	short := string(payload.Append(nil, testChannel, 1, 0, 0))
	f := func(events string) {
		t.Helper()
		for _, n := range []int{0, 1, 7} {
			require.Equal(t, Counts{Delivered: 1}, read(t, newConn(), plainHead+events, n), "%q", events)
		}
	}
	f("data:" + body + "\n\n")
	f("data: " + short + "\n\n")
	f("retry: 5\nid: 1\nevent: message\ndata: " + body + "\n:\n\n")
	f("id: 1\r\ndata: " + body + "\r\n\r\n")
	f("data: " + body + "\nid: 9\n\n")
	f("data: first line\ndata: " + body + "\ndata: last line\n\n")
	f("data: {\"pub\":{\"data\":\"~l~lt" + body + "\"}}\n\n")
}

func TestChunkingOfAStreamChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	events := []string{
		":\n", "retry: 2000\n", "event: gap\nid: 3-3\ndata: {\"reason\":\"outage\"}\n\n", "data: other\n\n",
		"id: 1\r\ndata: x\r\n\r\n", "data: ~lt:0000\n\n",
	}
	for range 300 {
		stream := ""
		for range 30 {
			if rng.IntN(3) == 0 {
				stream += events[rng.IntN(len(events))]
			} else {
				stream += frame(uint32(1+rng.IntN(20)), 44+rng.IntN(300))
			}
		}
		want := newConn()
		wantCounts := read(t, want, plainHead+stream, 0)
		for _, head := range []string{plainHead, strings.Replace(plainHead, "Connection: close", "TRANSFER-encoding:\tChunked", 1)} {
			body := stream
			if head != plainHead {
				body = chunked(rng, stream)
			}
			c := newConn()
			require.Equal(t, wantCounts, read(t, c, head+body, 1+rng.IntN(40)))
			require.Equal(t, want.lastID(), c.lastID())
		}
	}
}

func chunked(rng *rand.Rand, s string) string {
	var out strings.Builder
	for len(s) > 0 {
		n := min(len(s), 1+rng.IntN(400))
		fmt.Fprintf(&out, "%X;ext=1\r\n%s\r\n", n, s[:n])
		s = s[n:]
	}
	return out.String()
}

func TestLastEventIDIsThatOfTheLastWholeBlock(t *testing.T) {
	f := func(events, want string) {
		t.Helper()
		c := newConn()
		read(t, c, plainHead+events, 2)
		require.Equal(t, want, string(c.lastID()))
	}
	f("", "")
	f("id: 1-2\ndata: x\n\n", "1-2")
	f("id:1-2\n\n", "1-2")
	f("id: 1-2\ndata: x\n\nid: 1-3\ndata: y\n", "1-2")
	f("id: 1-2\n\nid: 1", "1-2")
	f("id: 1-2\nid: 77\n\n", "77")
	f("id: 1-2\r\n\r\n", "1-2")
	f("id: 1-2\n\nid: \n\n", "")
	long := strings.Repeat("x", idBytes)
	f("id: "+long+"\n\n", long)

	c := newConn()
	require.Equal(t, Counts{LongIDs: 1}, read(t, c, plainHead+"id: 1\n\nid: "+long+"\n\n", 0))
	require.Empty(t, c.lastID())
}

func TestOtherResponsesAreRefused(t *testing.T) {
	f := func(head string, want error) {
		t.Helper()
		var s Stats
		var err error
		c := newConn()
		for i := 0; i < len(head) && err == nil; i++ {
			err = c.feed([]byte(head[i:i+1]), &s, 0)
		}
		require.ErrorIs(t, err, want)
	}
	f("HTTP/1.1 404 Not Found\r\n\r\n", errStatus)
	f("HTTP/1.1 503 x\n", errStatus)
	f("HTTP/1.1 2x0 OK\r\n", errFraming)
	f("SSH-2.0-OpenSSH\r\n", errFraming)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", errFraming)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", errFraming)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", errOver)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0;last\r\n\r\n", errOver)
	f("HTTP/1.0 200\r\n\r\n", nil)
}

func TestLatencyCountsFromTheDueTime(t *testing.T) {
	c := newConn()
	var s Stats
	due := time.Now().UnixNano()
	stream := plainHead + "data: " + string(payload.Append(nil, testChannel, 1, due, 64)) + "\n\n"
	require.NoError(t, c.feed([]byte(stream), &s, due+int64(3*time.Millisecond)))
	require.Equal(t, 3*time.Millisecond, s.Latency.Max())
}

func TestSequenceNumbersMayWrap(t *testing.T) {
	c := newConn()
	c.expect(1<<32 - 2)
	require.Equal(t, Counts{Delivered: 4}, read(t, c, plainHead+frame(1<<32-2, 60)+frame(1<<32-1, 60)+frame(0, 60)+frame(1, 60), 0))
}

func BenchmarkFeed(b *testing.B) {
	c := newConn()
	var s Stats
	if err := c.feed([]byte(plainHead), &s, 0); err != nil {
		b.Fatal(err)
	}
	stream := []byte(frame(1, 128))
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		c.feedEvents(stream, &s, 0)
	}
}
