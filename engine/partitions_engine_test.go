package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// engineWorld plays partitionWorld, the model of a log of several partitions, on engines:
// its servers and histories are those of the model, its instances are engines with sockets.
// The order of things is that of the processor: a seed draws what happens, not when.
type engineWorld struct {
	*partitionWorld
	t       *testing.T
	mu      sync.Mutex // of the logs: the engines read them as their histories
	reads   *rand.Rand // of the histories, guarded by mu
	names   []string   // of the channels
	numbers map[string]int
	engines []*engineInstance
	readers []*engineReader
	story   []string // what has happened, where one seed is played
	gaps    int      // events
	resumes int      // with an ID
}

// engineInstance is an engine and its feeds.
type engineInstance struct {
	e     *Engine
	feeds []*lineageModel // of which only what the feed knows is in use
}

// engineReader is a client over all of its streams.
type engineReader struct {
	*partitionClient
	*testClient
	form    form
	lastID  string
	isNew   bool // it came without an ID and has not got one
	takesID bool
	told    map[int]int // of a channel without a count: the step of its newest gap event
	frozen  bool
}

// worldHistory is the history of a partition.
type worldHistory struct {
	w *engineWorld
	p int
}

// named finds the channels of the model.
func (h worldHistory) named(channels []string) []int {
	list := make([]int, len(channels))
	for i, name := range channels {
		channel, known := h.w.numbers[name]
		if !known || h.w.partitionOf(channel) != h.p {
			panic(fmt.Sprintf("partition %d is asked about %q", h.p, name))
		}
		list[i] = channel
	}
	return list
}

func (h worldHistory) Range(_ context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.report(h.named(channels), placeOfID(after), placeOfID(upTo), r)
	return nil
}

func (h worldHistory) report(channels []int, after, upTo logPlace, r sseproto.Replay) {
	kept, lack := h.w.logs[h.p].history(channels, after, upTo)
	for _, channel := range lack {
		r.Lost(slices.Index(channels, channel), sseproto.ReasonTrimmed, sseproto.ID{})
	}
	for _, m := range kept {
		r.Event(slices.Index(channels, m.channel), m.at.id(), h.w.message(m))
	}
}

func (h worldHistory) Merge(_ context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, _ int64, r sseproto.Replay) (sseproto.ID, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if from != nil {
		panic("nobody has asked for a start")
	}
	list, through := h.named(channels), upTo
	if kept, _ := h.w.logs[h.p].history(list, placeOfID(after), placeOfID(upTo)); len(kept) > 2 && h.w.reads.IntN(2) == 0 { // the page is full
		through = kept[1].at.id()
	}
	h.report(list, placeOfID(after), placeOfID(through), r)
	return through, nil
}

func (h worldHistory) Starts(context.Context, []string, sseproto.StartPoint, []int, sseproto.ID) ([]sseproto.ID, sseproto.ID, error) {
	panic("nobody has asked for a start")
}

func (h worldHistory) Written(context.Context) (sseproto.ID, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.w.logs[h.p].watermark.id(), nil
}

func (h worldHistory) Invalidate(_ context.Context, after, upTo sseproto.ID) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	l := h.w.logs[h.p]
	l.markers = append(l.markers, placeRange{placeOfID(after), placeOfID(upTo)})
	return nil
}

// message is what was published: it tells which one it is.
func (w *engineWorld) message(m *publishedMessage) sseproto.Message {
	return sseproto.Message{Data: fmt.Sprintf("%d %d %s", m.channel, m.nth, strings.Repeat("x", m.born%7*100))}
}

func newEngineWorld(t *testing.T, seed uint64) *engineWorld {
	w := &engineWorld{partitionWorld: newPartitionWorld(seed, ""), t: t, reads: rand.New(rand.NewPCG(seed, 2)), numbers: map[string]int{}}
	for channel := range w.channels {
		name := fmt.Sprint("c", channel)
		for n := 0; sseproto.PartitionOf(name, w.partitions) != w.partitionOf(channel); n++ {
			name = fmt.Sprint("c", channel, "-", n)
		}
		w.names = append(w.names, name)
		w.numbers[name] = channel
	}
	if *partitionSeed != 0 {
		w.trace = func(format string, args ...any) { w.story = append(w.story, fmt.Sprintf(format, args...)) }
	}
	isAlone := w.rng.IntN(6) == 0
	w.failovers = w.failovers && !isAlone // a gap marker tells of IDs that were taken back
	histories := make([]History, w.partitions)
	for p := range histories {
		histories[p] = worldHistory{w, p}
	}
	for range w.instances {
		in := &engineInstance{feeds: make([]*lineageModel, w.partitions)}
		for p := range in.feeds {
			in.feeds[p] = &lineageModel{linked: true}
		}
		in.e = startTuned(t, func(cfg *Config) {
			cfg.Partitions, cfg.Histories = w.partitions, histories
			cfg.RingBytes, cfg.SegmentBytes = minRingBytes, minSegmentBytes
			cfg.Heartbeat = 2 * time.Second
			switch {
			case isAlone:
				cfg.Histories = nil
			case w.partitions == 1:
				cfg.History, cfg.Histories = histories[0], nil
			}
		}, w.tune)
		w.engines = append(w.engines, in)
	}
	w.instances = nil // of the model
	for _, c := range w.clients {
		w.readers = append(w.readers, &engineReader{partitionClient: c, takesID: w.rng.IntN(4) > 0})
	}
	return w
}

// tune is model.tune.
func (w *engineWorld) tune(e *Engine) { (&model{rng: w.rng}).tune(e) }

// receive gives an engine the next event of a partition. False: there is none.
func (w *engineWorld) receive(in *engineInstance, p int) bool {
	f, log, line := in.feeds[p], w.logs[p], in.e.log.Partition(p)
	if !f.linked || f.next == len(log.events) || f.demoted && f.next == f.end {
		return false
	}
	e := log.events[f.next]
	f.next++
	switch {
	case e.message == nil && !f.synced:
		w.log("instance %d opens %d at %v", w.number(in), p, e.at.id())
		f.synced, f.heard, f.lastTick = true, e.at, e.at
		line.OpenSpan(e.at.id())
	case !f.synced:
	case e.message == nil:
		f.heard, f.lastTick = e.at, e.at
		w.mu.Lock()
		watermark := log.watermark
		w.mu.Unlock()
		line.Commit(e.at.id(), watermark.id())
	default:
		f.heard = e.at
		line.Append(e.at.id(), w.names[e.message.channel], w.message(e.message).Data)
	}
	return true
}

func (w *engineWorld) cut(in *engineInstance, p int) {
	f := in.feeds[p]
	if !f.linked {
		return
	}
	through := f.heard
	if f.demoted {
		through = f.lastTick
	}
	w.log("instance %d loses %d at %v, synced %t", w.number(in), p, through.id(), f.synced)
	if f.linked, f.demoted = false, false; f.synced {
		f.synced = false
		in.e.log.Partition(p).CloseSpan(through.id())
	}
}

func (w *engineWorld) relink(in *engineInstance, p int) {
	if f := in.feeds[p]; !f.linked {
		f.linked, f.next = true, len(w.logs[p].events)
	}
}

func (w *engineWorld) failover(p int) {
	w.mu.Lock()
	w.partitionWorld.failover(p)
	w.mu.Unlock()
	for _, in := range w.engines {
		if f := in.feeds[p]; f.linked && !f.demoted {
			f.demoted, f.end = true, w.logs[p].begin
			if w.rng.IntN(2) == 0 {
				w.cut(in, p)
			}
		}
	}
}

// truth changes what the servers and the histories have.
func (w *engineWorld) truth(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *engineWorld) connectReader(c *engineReader, in *engineInstance) {
	w.log("client %d of %v connects to %d with %q", c.number, c.channels, w.number(in), c.lastID)
	fd, conn := socketPair(w.t)
	if w.rng.IntN(3) == 0 {
		require.NoError(w.t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<10))
	}
	c.form = form(w.rng.IntN(forms))
	a := &front.Stream{
		FD: fd, Head: []byte("HEAD\n"), Since: in.e.log.standing(), Chunked: c.form&formChunked != 0, Told: c.form&formTold != 0,
		LastEventID: c.lastID, Resumes: c.lastID != "", TakesID: c.takesID,
	}
	for _, channel := range c.channels {
		a.Channels = append(a.Channels, w.names[channel])
	}
	if c.isNew = c.lastID == ""; c.isNew {
		c.counts, c.told = map[int]*clientCount{}, map[int]int{}
	} else {
		w.resumes++
	}
	in.e.conns.Add(1)
	in.e.attach(a)
	c.testClient = newFormedClient(w.t, conn, c.form)
	if c.lastID != "" { // a browser has it until it gets another one
		_, _ = fmt.Fprintf(c.dec, "id: %s\n\n", c.lastID)
	}
}

func (w *engineWorld) disconnectReader(c *engineReader) {
	if c.testClient != nil {
		_ = c.conn.Close()
		c.testClient = nil
	}
}

// poll reads what is there, up to most bytes.
func (w *engineWorld) poll(c *engineReader, wait time.Duration, most int) {
	for c.testClient != nil && most > 0 {
		require.NoError(w.t, c.conn.SetReadDeadline(time.Now().Add(wait)))
		n, err := c.conn.Read(c.buf[:min(most, len(c.buf))])
		most -= n
		text, wireErr := c.wire.read(c.buf[:n])
		require.NoError(w.t, wireErr)
		for line := range strings.Lines(string(text)) { // so that an ID without an event is seen
			_, _ = c.dec.Write([]byte(line))
			w.takeRead(c)
		}
		var timeout net.Error
		switch {
		case err == nil:
		case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
			return
		default:
			w.disconnectReader(c)
		}
	}
}

// takeRead judges what a line has brought.
func (w *engineWorld) takeRead(c *engineReader) {
	if id := string(c.dec.LastEventID()); id != c.lastID {
		places := make([]sseproto.ID, w.partitions)
		own, _, err := sseproto.ParseEventVector(id, places)
		require.NoError(w.t, err, id)
		w.log("client %d has the ID %s", c.number, id)
		c.lastID = id
		v := placeVector{own, make([]logPlace, w.partitions)}
		for p, at := range places {
			v.at[p] = placeOfID(at)
		}
		for _, p := range c.parts {
			require.False(w.t, places[p].IsZero(), "the ID %s names no place in partition %d", id, p)
		}
		if c.id = &v; c.isNew && len(c.got) == 0 {
			w.take(c.partitionClient, ringFrame{kind: frameStart, vector: v})
		}
		c.isNew = false
	}
	for _, ev := range c.got {
		w.takeEvent(c, ev)
	}
	c.got = c.got[:0]
}

func (w *engineWorld) takeEvent(c *engineReader, ev event) {
	w.log("client %d gets %.60q", c.number, ev)
	if ev.kind == sseproto.EventGap {
		w.takeGap(c, ev)
		return
	}
	var channel, nth int
	_, err := fmt.Sscan(ev.data, &channel, &nth)
	require.NoError(w.t, err)
	require.Contains(w.t, c.channels, channel)
	m := w.channels[channel][nth-1]
	require.Equal(w.t, w.message(m).Data, ev.data)
	kind := sseproto.EventMessage
	if c.form&formTold != 0 {
		kind = w.names[channel]
	}
	require.Equal(w.t, kind, ev.kind)
	places := make([]sseproto.ID, w.partitions)
	own, _, err := sseproto.ParseEventVector(ev.id, places)
	require.NoError(w.t, err)
	require.Equal(w.t, m.partition, own)
	require.Equal(w.t, m.at.id(), places[own], "a message has one ID")
	w.judge(c, ringFrame{kind: frameLive, partition: own, at: m.at, channel: channel, message: m})
}

func (w *engineWorld) takeGap(c *engineReader, ev event) {
	var told struct {
		Channel  string
		Channels []string
	}
	require.NoError(w.t, json.Unmarshal([]byte(ev.data), &told))
	w.gaps++
	if told.Channel != "" {
		told.Channels = []string{told.Channel}
	}
	for _, channel := range c.channels {
		if len(told.Channels) == 0 || slices.Contains(told.Channels, w.names[channel]) {
			w.judge(c, ringFrame{kind: frameGap, channel: channel, born: w.now})
		}
	}
}

// judge is that of the model, which has its own idea of IDs.
func (w *engineWorld) judge(c *engineReader, f ringFrame) {
	id := c.id
	if id != nil {
		f.vector = *id
	}
	c.stream = &partitionStream{live: true}
	isFirst := c.counts[f.channel] == nil
	w.take(c.partitionClient, f)
	switch told, isTold := c.told[f.channel]; {
	case isFirst && f.kind == frameGap:
		c.told[f.channel] = f.born
	case isFirst && isTold: // gap events come before the messages that are left
		c.counts[f.channel].excused, c.counts[f.channel].rewound = told, true
	}
	c.id, c.stream = id, nil
	if w.problem != "" {
		require.FailNow(w.t, "the guarantee is broken", "%s\n%s", w.problem, w.tell(c))
	}
}

// tell is what the engines know of a client.
func (w *engineWorld) tell(c *engineReader) string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d of %v, partitions %v, ID %s\n", c.number, c.channels, c.parts, c.lastID)
	for k, in := range w.engines {
		fmt.Fprintf(&b, "instance %d: %s\n", k, whereabouts(in.e, w.names[c.channels[0]]))
	}
	return b.String() + strings.Join(w.story, "\n")
}

func (w *engineWorld) number(in *engineInstance) int { return slices.Index(w.engines, in) }

func (w *engineWorld) act() {
	w.now++
	for p, l := range w.logs {
		if l.tick.tick()-l.skew < w.now-apart/2 {
			w.truth(func() { w.tick(p) })
		}
	}
	p, in, c := w.rng.IntN(w.partitions), pickOne(w.rng, w.engines), pickOne(w.rng, w.readers)
	switch n := w.rng.IntN(100); {
	case n < 25:
		for range 1 + w.rng.IntN(20) {
			w.truth(func() { w.publish(p) })
		}
	case n < 28:
		w.truth(func() { w.tick(p) })
	case n < 60:
		for range 1 + w.rng.IntN(60) {
			w.receive(in, p)
		}
	case n < 61:
		w.cut(in, p)
	case n < 65:
		w.relink(in, p)
	case n < 70:
		w.truth(func() { w.write(p) })
	case n < 71 && w.trims:
		w.truth(func() { w.trim(p) })
	case n < 72 && w.failovers && w.rng.IntN(6) == 0:
		w.failover(p)
	case n < 74:
		w.disconnectReader(c)
	case n < 75:
		c.frozen = !c.frozen
	case n < 80:
		if c.testClient == nil {
			w.connectReader(c, in)
		}
	default:
		if c.frozen {
			return
		}
		if w.rng.IntN(3) == 0 {
			w.poll(c, 200*time.Microsecond, 1+w.rng.IntN(3000))
			return
		}
		w.poll(c, 20*time.Microsecond, 64<<10)
	}
}

// settle lets all heal, but for a partition in some runs, and publishes a last message to
// each channel.
func (w *engineWorld) settle() {
	w.settling = true
	if w.partitions > 1 && w.rng.IntN(3) == 0 {
		w.dead = w.rng.IntN(w.partitions)
	}
	for p, l := range w.logs {
		if p == w.dead {
			for _, in := range w.engines {
				w.cut(in, p)
			}
			continue
		}
		w.truth(func() {
			if len(l.events) == l.begin {
				w.tick(p)
			}
		})
		for _, in := range w.engines {
			if in.feeds[p].demoted {
				w.cut(in, p)
			}
			w.relink(in, p)
		}
		for range 2 {
			w.now += 3
			w.truth(func() { w.tick(p) })
		}
	}
	w.catchUp()
	for range 2 {
		for p := range w.logs {
			if p == w.dead {
				continue
			}
			w.truth(func() {
				w.now++
				for last := slices.Repeat([]bool{false}, len(w.channels)); slices.Contains(last[:], false); {
					m := w.publish(p)
					last[m.channel] = true
					for channel := range last {
						last[channel] = last[channel] || w.partitionOf(channel) != p
					}
				}
				w.now += 3
				w.tick(p)
			})
		}
		w.catchUp()
	}
}

// catchUp gives the engines all that there is.
func (w *engineWorld) catchUp() {
	for p := range w.logs {
		if p == w.dead {
			continue
		}
		w.truth(func() { w.write(p) })
		for _, in := range w.engines {
			for w.receive(in, p) {
			}
		}
	}
}

// has reports whether a client has the last message of each channel whose partition is alive.
func (w *engineWorld) hasLast(c *engineReader) bool {
	for _, channel := range c.channels {
		if w.partitionOf(channel) == w.dead || len(w.channels[channel]) == 0 {
			continue
		}
		if count := c.counts[channel]; count == nil || count.last < len(w.channels[channel]) {
			return false
		}
	}
	return true
}

// finish lets a client come to the end.
func (w *engineWorld) finish(c *engineReader) {
	deadline, before, busy := time.Now().Add(waitLong), c.lastID, 0
	for !w.hasLast(c) {
		if c.testClient == nil {
			w.connectReader(c, pickOne(w.rng, w.engines))
		}
		w.poll(c, 5*time.Millisecond, 1<<20)
		for p := range w.logs { // time goes on
			if p != w.dead {
				w.truth(func() {
					w.write(p)
				})
			}
		}
		w.catchUp()
		isAlone := true
		for _, in := range w.engines {
			isAlone = isAlone && !isAtWork(in.e)
		}
		switch {
		case c.lastID != before:
			deadline, before, busy = time.Now().Add(waitLong), c.lastID, 0
		case !isAlone && busy < mostBusyLooks:
			busy++
			deadline = time.Now().Add(waitLong)
		case time.Now().After(deadline):
			require.FailNow(w.t, "stuck", "%s\ncounts %v, of %v", w.tell(c), c.tellCounts(), w.lengths(c))
		}
		for _, channel := range c.channels { // it may have begun behind the last message
			if p := w.partitionOf(channel); p != w.dead && c.counts[channel] == nil && w.rng.IntN(20) == 0 {
				w.truth(func() { w.publish(p); w.tick(p) })
			}
		}
	}
}

func (c *engineReader) tellCounts() string {
	var b strings.Builder
	for channel, n := range c.counts {
		fmt.Fprintf(&b, " %d: %+v", channel, *n)
	}
	return b.String()
}

func (w *engineWorld) lengths(c *engineReader) (all []int) {
	for _, channel := range c.channels {
		all = append(all, len(w.channels[channel]))
	}
	return all
}

func runEngineWorld(t *testing.T, seed uint64) *engineWorld {
	w := newEngineWorld(t, seed)
	for range 1500 + w.rng.IntN(1500) {
		w.act()
	}
	w.settle()
	for _, c := range w.readers {
		w.finish(c)
		for _, channel := range c.channels {
			if w.partitionOf(channel) != w.dead {
				w.wantExcused(c.partitionClient, channel, len(w.channels[channel])+1)
			}
		}
		require.Empty(t, w.problem)
	}
	for _, c := range w.readers {
		w.disconnectReader(c)
	}
	for _, in := range w.engines {
		require.Eventually(t, func() bool { return in.e.Stats().Streams == 0 }, waitLong, pollEvery)
		for _, s := range in.e.shards {
			a := &leftoverAsk{make(chan string, 1)}
			s.post(command{ask: a})
			require.Empty(t, <-a.reply)
		}
		in.e.replayer.mu.Lock()
		require.Empty(t, in.e.replayer.waiters)
		in.e.replayer.mu.Unlock()
	}
	return w
}

// leftoverAsk asks a shard without streams what it still has of them.
type leftoverAsk struct{ reply chan string }

func (a *leftoverAsk) answer(s *shard) {
	left := ""
	if n := len(s.joins) + len(s.pending); n > 0 || s.pendingSize != 0 {
		left = fmt.Sprintf("%d joining, %d pending, %d bytes", len(s.joins), len(s.pending), s.pendingSize)
	}
	a.reply <- left
}

// TestSeveralPartitionsHoldTheGuarantee: the judge of the model looks at engines with
// sockets. Each message comes once, in the order of its channel, and with one ID, or there is a
// gap event. A dead partition stops nobody's other channels.
func TestSeveralPartitionsHoldTheGuarantee(t *testing.T) {
	played := 3 * *seeds
	if raceEnabled {
		played = (played + 1) / 2
	}
	if *partitionSeed != 0 {
		runEngineWorld(t, *partitionSeed)
		return
	}
	for seed := range played {
		t.Run(fmt.Sprint("seed=", seed+1), func(t *testing.T) {
			t.Parallel()
			w := runEngineWorld(t, seed+1)
			var evicted, history uint64
			for _, in := range w.engines {
				st := in.e.Stats()
				evicted, history = evicted+st.Log.Evicted, history+st.ResumedHistory
			}
			t.Logf("%d partitions, %d instances, %d resumes, %d with the history, %d gap events, %d messages evicted", w.partitions, len(w.engines), w.resumes, history, w.gaps, evicted)
		})
	}
}
