package engine

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// eachForm runs a test for every form.
func eachForm(t *testing.T, f func(t *testing.T, form form)) {
	for form := range form(forms) {
		t.Run(fmt.Sprintf("chunked=%t/told=%t", form&formChunked != 0, form&formTold != 0), func(t *testing.T) { f(t, form) })
	}
}

// takingAtMost is a socket that has room for so many bytes at a time.
func takingAtMost(limit int) func(fd int, vec []sock.Iovec) (int, sock.Result) {
	return func(fd int, vec []sock.Iovec) (int, sock.Result) {
		var taken []byte
		for _, v := range vec {
			taken = append(taken, unsafe.Slice(v.Base, min(int(v.Len), limit-len(taken)))...)
		}
		return sock.Send(fd, []sock.Iovec{sock.Piece(taken)})
	}
}

// kept is takingAtMost without a socket: a system call for each byte of a large message takes
// most of a test's time.
type kept []byte

func (k *kept) takingAtMost(limit int) func(int, []sock.Iovec) (int, sock.Result) {
	return func(_ int, vec []sock.Iovec) (int, sock.Result) {
		before, end := len(*k), len(*k)+limit
		for _, v := range vec {
			*k = append(*k, unsafe.Slice(v.Base, min(int(v.Len), end-len(*k)))...)
		}
		return len(*k) - before, sock.OK
	}
}

// textOf reads what a client has got until its stream, without its head, is want.
func textOf(t *testing.T, c *testClient, want string) {
	var text []byte
	if c.wire.plain {
		want = "HEAD\n" + want
	}
	for len(text) < len(want) {
		require.NoError(t, c.conn.SetReadDeadline(time.Now().Add(waitLong)))
		n, err := c.conn.Read(c.buf)
		require.NoError(t, err)
		got, err := c.wire.read(c.buf[:n])
		require.NoError(t, err)
		text = append(text, got...)
	}
	require.Equal(t, want, string(text))
}

// Whatever byte a socket fills up at, the stream goes on with the next one.
func TestStreamOfEachFormGoesOnBehindEveryByte(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 5, 64, copyBytes, 5000, 1 << 20} {
		eachForm(t, func(t *testing.T, form form) {
			h := shardByHand(t, func(cfg *Config) { cfg.Envelope = true })
			h.log.envelope = true
			channels := []string{"a", "b\n%", "message", "gap"}
			c := joinFormed(t, h.engine, form, resumePoint{}, channels...)
			h.pass()
			textOf(t, c, "retry: 0\n")
			var got kept
			h.send = got.takingAtMost(limit)
			want := ""
			add := func(channel string, m sseproto.Message, payload string) {
				id := h.f.publish(channel, payload)
				if form&formTold != 0 && m.Event == "" {
					m.Event = map[string]string{"a": "a", "b\n%": "b%0A%25", "message": "", "gap": "%67ap"}[channel]
				}
				want += string(sseproto.AppendEvent(nil, id, m))
			}
			plain := func(channel, data string) { add(channel, sseproto.Message{Data: data}, data) }
			typed := func(channel string, m sseproto.Message) { add(channel, m, string(sseproto.AppendEnvelope(nil, m))) }
			plain("a", "small")
			plain("b\n%", "two\nlines")
			h.pass()
			typed("a", sseproto.Message{Event: "own", ID: "mine", Retry: time.Second, Data: "x"})
			typed("b\n%", sseproto.Message{ID: "mine", Retry: time.Second, Data: "no type"})
			plain("message", "m")
			plain("a", strings.Repeat("l", 2*copyBytes))
			plain("a", "behind the large one")
			plain("a", strings.Repeat("f", copyBytes-len("id: 1000-12\ndata: \n\n")))
			plain("gap", strings.Repeat("g", copyBytes))
			typed("gap", sseproto.Message{Event: "own", Data: strings.Repeat("t", copyBytes)})
			plain("gap", "last")
			for s := h.slots.at(1); s.phase != phaseLive || s.pos < h.log.Position(); {
				if s.phase == phaseBlocked {
					h.later(1)
				}
				h.pass()
			}
			text, err := c.wire.read(got)
			require.NoError(t, err)
			require.Equal(t, want, string(text))
			if form&formChunked != 0 {
				require.Len(t, c.wire.chunks, 1+11, "a chunk for each event, and one behind the head")
			}
		})
	}
}

// A burst of more messages than one write carries, small and large ones, between those of
// others: the members of all forms get it in the same steps.
func TestBurstReachesMembersOfAllForms(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, smallChannel/forms + 1} { // of each form: a small and a large channel
		h := shardByHand(t, func(cfg *Config) { cfg.RingBytes = 32 << 20 })
		var clients []*testClient
		for i := range members * forms {
			clients = append(clients, joinFormed(t, h.engine, form(i%forms), resumePoint{}, "a"))
			h.pass()
		}
		const burst = 3000
		var want []string
		publish := func(data string) {
			want = append(want, data)
			h.f.publish("a", data)
			h.f.publish("noise", "between")
		}
		for i := range burst {
			switch {
			case i%100 == 7:
				publish(fmt.Sprint(i, strings.Repeat("l", copyBytes)))
			default:
				publish(fmt.Sprint(i))
			}
		}
		got := make([][]string, len(clients))
		wait := func() (missing bool) {
			for i, c := range clients {
				if len(got[i]) == len(want) {
					continue
				}
				missing = true
				_ = c.conn.SetReadDeadline(time.Now().Add(time.Microsecond))
				n, _ := c.conn.Read(c.buf)
				c.take(c.buf[:n])
				for _, ev := range c.next(len(c.got)) {
					got[i] = append(got[i], ev.data)
					if kind := map[bool]string{true: "a", false: "message"}[i%forms&int(formTold) != 0]; ev.kind != kind {
						require.Equal(t, kind, ev.kind)
					}
				}
			}
			return missing
		}
		deadline := time.Now().Add(waitLong)
		for wait() {
			require.True(t, time.Now().Before(deadline))
			h.poller.wait(0)
			h.pass()
		}
		for i := range clients {
			require.Equal(t, want, got[i])
		}
	}
}

// A job that takes many passes goes on with what it gathered, whatever comes meanwhile.
func TestJobGoesOnWithItsBatchInLaterPasses(t *testing.T) {
	const members = smallChannel + 2*forms
	h := shardByHand(t, nil)
	var clients []*testClient
	for i := range members {
		clients = append(clients, joinFormed(t, h.engine, form(i%forms), resumePoint{}, "a"))
		h.pass()
	}
	h.shares.large = 1 // one member a pass
	var want []string
	publish := func(data string) {
		want = append(want, data)
		h.f.publish("a", data)
		h.f.publish("noise", "between")
	}
	publish("small")
	publish(strings.Repeat("l", copyBytes+1))
	publish("small")
	for k := 0; h.busy(); k++ {
		h.pass()
		if k < 2*members && k%10 == 0 {
			publish(fmt.Sprint("meanwhile ", k))
		}
	}
	for _, c := range clients {
		require.Equal(t, want, datas(c.next(len(want))))
	}
}

// Who was not served yet is told, and gets no bytes of what the loop had gathered.
func TestJobWhoseMessagesHaveLeftTheRingBringsNothing(t *testing.T) {
	const members = smallChannel + 8
	h := shardByHand(t, nil)
	var clients []*testClient
	for range members {
		clients = append(clients, joinFormed(t, h.engine, formChunked, resumePoint{}, "a"))
		h.pass()
	}
	h.shares.large = 1
	h.f.publish("a", "gone")
	h.pass()
	h.turn()
	for h.busy() {
		h.pass()
	}
	served := 0
	for _, c := range clients {
		switch ev := c.next(1)[0]; ev.kind {
		case "message":
			require.Equal(t, "gone", ev.data)
			served++
		default:
			require.Equal(t, "gap", ev.kind)
		}
	}
	require.Equal(t, 1, served)
}

// Where a batch is full does not depend on its form.
func TestBatchesOfAllFormsEndAtTheSameMessage(t *testing.T) {
	t.Parallel()
	for name, publish := range map[string]func(f *feed){
		"pieces": func(f *feed) { f.publish("a", "x"); f.publish("noise", "y") },
		"number": func(f *feed) { f.publish("a", "x") },
		"bytes":  func(f *feed) { f.publish("a", strings.Repeat("x", copyBytes+10)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := shardByHand(t, func(cfg *Config) { cfg.RingBytes = 64 << 20 })
			for range 5000 {
				publish(h.f)
			}
			v := h.reader.open()
			defer v.close()
			last := h.log.head.Load() - 1
			var ends []uint64
			for f := range form(forms) {
				b := &batch{form: f}
				j := &job{ch: 1, from: 1, to: last}
				b.gather(&v, j)
				require.True(t, b.whole)
				require.LessOrEqual(t, len(b.vec), sock.MaxIovecs)
				if f&formChunked != 0 && name != "bytes" {
					require.Less(t, len(b.vec), 64, "small frames are one piece, but where the scratch grew")
				}
				ends = append(ends, j.to)
			}
			require.Less(t, ends[0], last, "it is full before the last one")
			for _, end := range ends {
				require.Equal(t, ends[0], end)
			}
		})
	}
}

func TestHistoryIsReadOnceForEachForm(t *testing.T) {
	h, e := blockedHistory(t)
	h.store(sseproto.ID{Ms: 900, Seq: 3}, "a", sseproto.Message{Event: "own", Data: "typed"})
	var clients []*testClient
	for i := range 2 * forms {
		clients = append(clients, joinFormed(t, e, form(i%forms), after(sseproto.ID{Ms: 800}), "a", "b"))
	}
	require.Eventually(t, func() bool {
		e.replayer.mu.Lock()
		defer e.replayer.mu.Unlock()
		return len(e.replayer.waiters) == len(clients)
	}, waitLong, pollEvery)
	require.Len(t, e.replayer.asked, forms)
	close(h.block)
	for i, c := range clients {
		want := []event{{"900-1", "message", "old"}, {"900-2", "message", "old too"}, {"900-3", "own", "typed"}}
		if form(i%forms)&formTold != 0 {
			want[0].kind, want[1].kind = "a", "b"
		}
		require.Equal(t, want, c.next(3))
		if !c.wire.plain {
			require.Len(t, c.wire.chunks, 1+3)
		}
	}
}

// What a socket does not take of a page is kept as it is on the wire.
func TestPageOfEachFormIsCutAtAnyByte(t *testing.T) {
	eachForm(t, func(t *testing.T, form form) {
		h := newMemoryHistory()
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint(i, strings.Repeat("x", i*10)))
			h.add(sseproto.ID{Ms: 900, Seq: uint64(i + 1)}, "a", want[i])
		}
		h.lost["a"] = sseproto.ReasonTrimmed
		e := startTuned(t, func(cfg *Config) { cfg.History, cfg.Shards = h, 1 }, func(e *Engine) { e.shards[0].send = takingAtMost(7) })
		f := startFeed(e, 1000)
		f.tick(sseproto.ID{Ms: 1000})
		c := joinFormed(t, e, form, after(sseproto.ID{Ms: 800}), "a")
		f.publish("a", "live")
		for _, data := range append(want, "live") {
			ev := c.next(1)[0]
			for ev.kind == "gap" { // this history tells of its loss at every read
				ev = c.next(1)[0]
			}
			require.Equal(t, data, ev.data)
		}
	})
}

func TestSlotHasTheFormOfItsStreamAlone(t *testing.T) {
	h := shardByHand(t, nil)
	for form := range form(2 * forms) {
		form %= forms
		c := joinFormed(t, h.engine, forms-1-form, resumePoint{}, "a")
		h.pass()
		h.f.publish("a", "x")
		h.pass()
		require.Equal(t, map[bool]string{true: "a", false: "message"}[(forms-1-form)&formTold != 0], c.next(1)[0].kind)
		require.EqualValues(t, 2, h.slots.used, "one slot changes hands")
		h.disconnect(1, h.slots.at(1), CloseAdmin)
		c.ended()
		require.Equal(t, !c.wire.plain, c.wire.ended)
	}
}

// A stream in chunks that ends on purpose says so, where it stands between two events.
func TestPlannedEndsSendTheLastChunk(t *testing.T) {
	f := func(phase slotPhase, prepare func(h byHand), want bool) {
		t.Helper()
		h := shardByHand(t, nil)
		c := joinFormed(t, h.engine, formChunked, resumePoint{}, "a")
		h.pass()
		prepare(h)
		require.Equal(t, phase, h.slots.at(1).phase)
		h.send = sock.Send
		h.disconnect(1, h.slots.at(1), CloseDrain)
		c.ended()
		require.Equal(t, want, c.wire.ended)
		if want {
			require.Empty(t, c.wire.rest)
		}
	}
	f(phaseLive, func(byHand) {}, true)
	f(phaseQueued, func(h byHand) { h.later(1) }, true)
	f(phaseResuming, func(h byHand) { h.enter(h.slots.at(1), phaseResuming) }, true)
	f(phaseAhead, func(h byHand) { h.enter(h.slots.at(1), phaseAhead) }, true)
	cut := func(h byHand) {
		h.send = takingAtMost(5)
		h.f.publish("a", "x")
		h.pass()
	}
	f(phaseBlocked, cut, false)
	f(phaseQueued, func(h byHand) { cut(h); h.later(1) }, false)
	f(phaseQueued, func(h byHand) { h.keepPending(1, []byte("2\r\n"), resumePoint{}); h.later(1) }, false)
}

func TestStreamThatIsKilledHasNoLastChunk(t *testing.T) {
	h := shardByHand(t, nil)
	for _, reason := range []CloseReason{CloseSlow, CloseError, CloseAbuse} {
		c := joinFormed(t, h.engine, formChunked, resumePoint{}, "a")
		h.pass()
		h.closeSlot(1, reason)
		c.ended()
		require.False(t, c.wire.ended)
	}
}

func TestDrainEndsStreamsOfEachForm(t *testing.T) {
	for _, drain := range []time.Duration{time.Millisecond, 200 * time.Millisecond} {
		var clients []*testClient
		var reading sync.WaitGroup
		t.Run(fmt.Sprint(drain), func(inner *testing.T) { // the engine drains at its end
			e := startEngine(inner, func(cfg *Config) { cfg.Drain = drain })
			startFeed(e, 1000)
			for i := range 40 {
				c := joinFormed(t, e, form(i%forms), resumePoint{}, "a")
				c.read()
				clients = append(clients, c)
				reading.Go(func() { c.ended() })
			}
		})
		reading.Wait()
		for _, c := range clients {
			require.Equal(t, !c.wire.plain, c.wire.ended)
		}
	}
}

func TestHeartbeatIsAChunk(t *testing.T) {
	for eventType, text := range map[string]string{"": ":\n", "beat": "event: beat\ndata: \n\n"} {
		h := shardByHand(t, nil)
		h.engine.heartbeats = heartbeatsOf(eventType)
		for i, form := range []form{0, formChunked, formChunked | formTold} {
			c := joinFormed(t, h.engine, form, resumePoint{}, "a")
			h.pass()
			h.heartbeat(uint32(i+1), h.slots.at(uint32(i+1)))
			textOf(t, c, "retry: 0\n"+text)
			if form != 0 {
				require.Equal(t, []string{"retry: 0\n", text}, c.wire.chunks)
			}
		}
	}
}

// What is told on top of the messages is in chunks too, and keeps its type.
func TestGapsAndPositionsHaveTheFormOfTheStream(t *testing.T) {
	eachForm(t, func(t *testing.T, form form) {
		e := startEngine(t, nil)
		f := startFeed(e, 1000)
		last := f.publish("a", "before")
		c := joinFormed(t, e, form, resumePoint{kind: resumeUnknown, raw: "not ours"}, "a")
		require.Equal(t, "gap", c.next(1)[0].kind)
		e.log.CloseSpan(last)
		e.log.OpenSpan(sseproto.ID{Ms: 2000})
		require.Equal(t, "gap", c.next(1)[0].kind)
		f.t, f.n = 2000, 0
		f.publish("a", "x")
		require.Equal(t, "x", c.next(1)[0].data)
	})
}
