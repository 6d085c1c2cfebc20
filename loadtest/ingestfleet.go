//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/loadtest/report"
	"ssed/loadtest/target"
	"ssed/sseproto"
)

// Parts of a round.
const (
	// chunk is how many messages of each partition are under way at most, so that Redis keeps
	// little for instances that are slower than it. With a history its writer has them all
	// before the next come: rings do not turn before that.
	ingestChunk    = 10_000
	batchedChunk   = 50_000
	ingestRing     = "16MiB"
	warmUpMessages = 100_000 // turn the ring once, and make all channels known
	warmUpRounds   = 2       // of --messages, where that is less
	ingestIdle     = time.Second
	ingestPatience = 60 * time.Second
	ingestPrefix   = "sse:stream:"
)

// ingestFleet is a case at work.
type ingestFleet struct {
	ingestCase
	servers   []*redistest.Server
	ssed      []int // process IDs
	lanes     []*lane
	mark      int // of the last chunk
	seen      *marks
	stops     []func()
	redisIdle []time.Duration // of each server in a second without messages
	ssedIdle  time.Duration   // of all instances
}

// lane is the way into one partition: a connection to its primary that is not answered.
type lane struct {
	conn   net.Conn
	keys   redisconn.Keys
	marker string // a channel that has nothing but marks
	names  []string
	ask    *redistest.Conn // is answered

	made     string // what commands are: kind and number
	commands []byte
}

// marks counts the streams that have seen each mark. A stream is for one partition.
type marks struct {
	streams int
	mu      sync.Mutex
	count   map[int]int
	all     chan int // marks that all have
}

func (m *marks) note(mark int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count[mark]++; m.count[mark] == m.streams {
		delete(m.count, mark)
		m.all <- mark
	}
}

// run measures one case.
func (g *ingest) run(ctx context.Context, o *options, c ingestCase) (runs []report.Run, err error) {
	f := &ingestFleet{ingestCase: c}
	defer f.close()
	if err := f.start(ctx, o); err != nil {
		return nil, err
	}
	n, chunk := g.warmUp(c)
	if _, err := f.round(ctx, batched, n, chunk); err != nil {
		return nil, err
	}
	if err := f.rest(ctx); err != nil {
		return nil, err
	}
	for round := 1; round <= o.Rounds; round++ {
		run := report.Run{Target: c.name(), Round: round, Values: map[string]float64{}}
		for _, kind := range []string{alone, batched} {
			n, chunk := g.amount(c, kind)
			spent, err := f.round(ctx, kind, n, chunk)
			if err != nil {
				return runs, err
			}
			run.Values[redisKey(kind)] = spent.redis.Seconds() * 1e6 / float64(n)
			run.Values[ssedKey(kind)] = spent.ssed.Seconds() * 1e6 / float64(n*c.instances)
		}
		run.Values["redis_idle"] = 100 * slices.Max(f.redisIdle).Seconds()
		run.Values["ssed_idle"] = 100 * f.ssedIdle.Seconds() / float64(c.instances)
		runs = append(runs, run)
	}
	return runs, nil
}

// warmUp is how many messages go before any is measured, and how many of them at once. A short
// run, as a test is one, does not turn the ring.
func (g *ingest) warmUp(c ingestCase) (n, chunk int) {
	n = min(warmUpMessages, warmUpRounds*g.Messages)
	chunk = max(n/10/ingestPerBatch, 1) * ingestPerBatch * c.redis.primaries
	return 10 * chunk, chunk
}

// amount is how many messages a round has, and how many of them go at once.
func (g *ingest) amount(c ingestCase, kind string) (n, chunk int) {
	n, chunk = g.Messages*4/(3+c.instances), ingestChunk
	switch {
	case c.history && kind == batched:
		n = 2 * n
	case kind == batched:
		n, chunk = 30*n, batchedChunk
	}
	chunk = max(min(n, chunk)/ingestPerBatch, 1) * ingestPerBatch
	chunk, n = chunk*c.redis.primaries, n*c.redis.primaries
	return max(n/chunk, 1) * chunk, chunk
}

func (f *ingestFleet) start(ctx context.Context, o *options) error {
	dir, err := os.MkdirTemp("", "ssed-ingest-")
	if err != nil {
		return err
	}
	f.stops = append(f.stops, func() { _ = os.RemoveAll(dir) })
	url, err := f.startRedis(o, dir)
	if err != nil {
		return err
	}
	streams, err := f.startSsed(ctx, o, url)
	if err != nil {
		return err
	}
	return f.follow(ctx, streams)
}

// startRedis runs the servers and opens a lane to each partition.
func (f *ingestFleet) startRedis(o *options, dir string) (url string, err error) {
	// Redis would cut a subscriber that is 32 MB behind.
	args := []string{"--client-output-buffer-limit", "pubsub", "0", "0", "0"}
	if !f.redis.cluster {
		s, err := redistest.RunProgram(o.RedisBin, dir, 0, args...)
		if err != nil {
			return "", err
		}
		f.stops, f.servers = append(f.stops, s.Kill), []*redistest.Server{s}
		return s.URL(), f.openLane(s, redisconn.MakeKeys(ingestPrefix), 0)
	}
	c, err := redistest.RunCluster(dir, f.redis.primaries, 0, args...)
	if err != nil {
		return "", err
	}
	f.stops, f.servers = append(f.stops, c.Kill), c.Nodes
	for q := range f.redis.primaries {
		keys := redisconn.MakePartitionKeys(ingestPrefix, redisconn.Partition{Number: q, Of: f.redis.primaries})
		s, err := c.AwaitPrimary(keys.Slot)
		if err != nil {
			return "", err
		}
		if err := f.openLane(s, keys, q); err != nil {
			return "", err
		}
	}
	// A cluster has several addresses, whatever its size.
	return c.URL() + "?addr=" + c.Nodes[f.redis.primaries-1].Addr(), nil
}

// openLane also picks the channels: as many of each partition, so that what is compared
// is the work and not the luck of names.
func (f *ingestFleet) openLane(s *redistest.Server, keys redisconn.Keys, partition int) error {
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		return err
	}
	f.stops = append(f.stops, func() { _ = conn.Close() })
	if _, err := conn.Write([]byte("CLIENT REPLY OFF\r\n")); err != nil {
		return err
	}
	l := &lane{conn: conn, keys: keys}
	if l.ask, err = redistest.Dial(s.Addr(), ingestPatience); err != nil {
		return err
	}
	f.stops = append(f.stops, func() { _ = l.ask.Close() })
	for i := 0; len(l.names) <= ingestChannels/f.redis.primaries; i++ {
		if name := "ingest-" + strconv.Itoa(i); sseproto.PartitionOf(name, f.redis.primaries) == partition {
			l.names = append(l.names, name)
		}
	}
	l.marker, l.names = l.names[0], l.names[1:]
	f.lanes = append(f.lanes, l)
	return nil
}

// startSsed starts all instances at once, and returns where their streams are.
func (f *ingestFleet) startSsed(ctx context.Context, o *options, url string) (streams []string, err error) {
	args := []string{"--redis-url", url, "--feed", "sharded", "--batch-channel", batchChannel, "--history", onOff(f.history), "--ring-bytes", ingestRing}
	if f.redis.primaries > 1 {
		args = append(args, "--partitions", strconv.Itoa(f.redis.primaries))
	}
	targets, stops, errs := make([]target.Target, f.instances), make([]func(), f.instances), make([]error, f.instances)
	var starting sync.WaitGroup
	for i := range f.instances {
		starting.Go(func() { targets[i], stops[i], errs[i] = o.launchSsed(ctx, heartbeat, args...) })
	}
	starting.Wait()
	for i, stop := range stops {
		if errs[i] == nil {
			f.stops = append(f.stops, stop)
			f.ssed = append(f.ssed, targets[i].PIDs...)
			streams = append(streams, targets[i].URL)
		}
	}
	return streams, errors.Join(errs...)
}

// follow opens a stream for the marks of each partition on each instance.
func (f *ingestFleet) follow(ctx context.Context, streams []string) error {
	f.seen = &marks{streams: len(streams) * len(f.lanes), count: map[int]int{}, all: make(chan int, 1)}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	f.stops = append(f.stops, func() { cancel(); reading.Wait() })
	for _, url := range streams {
		for _, l := range f.lanes {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.Replace(url, "{channel}", l.marker, 1), nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				_ = resp.Body.Close() // nothing of it is read
				return fmt.Errorf("a stream is answered by %s", resp.Status)
			}
			reading.Go(func() { f.seen.read(resp.Body) })
		}
	}
	return nil
}

// read ends with the stream. What should have come after that is missed by who waits.
func (m *marks) read(body io.ReadCloser) {
	defer body.Close()
	decoder := sseproto.Decoder{OnEvent: func(_, eventType, data []byte) {
		if mark, err := strconv.Atoi(string(data)); err == nil && string(eventType) == sseproto.EventMessage {
			m.note(mark)
		}
	}}
	_, _ = io.Copy(&decoder, body)
}

// ingestSpent is the CPU time of a round: of the busiest server, and of all instances together.
type ingestSpent struct{ redis, ssed time.Duration }

// round publishes n messages and returns what they took, less what the processes take
// without them.
func (f *ingestFleet) round(ctx context.Context, kind string, n, chunk int) (s ingestSpent, err error) {
	redisBefore, ssedBefore, err := f.read()
	if err != nil {
		return s, err
	}
	began := time.Now()
	for range n / chunk {
		if err := f.chunk(ctx, kind, chunk); err != nil {
			return s, err
		}
	}
	took := time.Since(began)
	redisAfter, ssedAfter, err := f.read()
	if err != nil {
		return s, err
	}
	idle := func(each time.Duration) time.Duration { return time.Duration(float64(each) * took.Seconds()) }
	for i := range redisAfter {
		was := time.Duration(0)
		if f.redisIdle != nil {
			was = idle(f.redisIdle[i])
		}
		s.redis = max(s.redis, redisAfter[i]-redisBefore[i]-was)
	}
	s.ssed = max(ssedAfter-ssedBefore-idle(f.ssedIdle), 0)
	return s, nil
}

// read reads the CPU time of each server, and of all instances together.
func (f *ingestFleet) read() (redis []time.Duration, ssed time.Duration, err error) {
	for _, s := range f.servers {
		cpu, err := target.ReadCPU([]int{s.Pid()})
		if err != nil {
			return nil, 0, err
		}
		redis = append(redis, cpu.Total)
	}
	cpu, err := target.ReadCPU(f.ssed)
	return redis, cpu.Total, err
}

// rest measures what a second without messages takes.
func (f *ingestFleet) rest(ctx context.Context) error {
	redisBefore, ssedBefore, err := f.read()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := pause(ctx, ingestIdle); err != nil {
		return err
	}
	redisAfter, ssedAfter, err := f.read()
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	perSecond := func(d time.Duration) time.Duration { return time.Duration(float64(d) / took) }
	for i := range redisAfter {
		f.redisIdle = append(f.redisIdle, perSecond(redisAfter[i]-redisBefore[i]))
	}
	f.ssedIdle = perSecond(ssedAfter - ssedBefore)
	return nil
}

// chunk publishes n messages and a mark in each partition, and returns when every
// instance has all of them, and the history too where there is one.
func (f *ingestFleet) chunk(ctx context.Context, kind string, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, ingestPatience, fmt.Errorf("%d messages did not reach everybody within %v", n, ingestPatience))
	defer cancel()
	f.mark++
	errs := make([]error, len(f.lanes))
	var sending sync.WaitGroup
	for i, l := range f.lanes {
		sending.Go(func() { errs[i] = l.send(kind, n/len(f.lanes), f.mark) })
	}
	sending.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	select {
	case <-f.seen.all:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, l := range f.lanes {
		if !f.history {
			break
		}
		if err := poll(ctx, func() error { return l.written(f.mark) }); err != nil {
			return fmt.Errorf("the history: %w", err)
		}
	}
	return nil
}

// send writes the messages of a chunk and its mark.
func (l *lane) send(kind string, n, mark int) error {
	key := kind + strconv.Itoa(n)
	if l.made != key {
		l.made, l.commands = key, l.make(kind, n)
	}
	if _, err := l.conn.Write(l.commands); err != nil {
		return err
	}
	_, err := l.conn.Write(l.publish(nil, l.marker, strconv.Itoa(mark)))
	return err
}

// make returns the commands for n messages.
func (l *lane) make(kind string, n int) (commands []byte) {
	body := strings.Repeat("x", ingestBytes)
	if kind == alone {
		for i := range n {
			commands = l.publish(commands, l.names[i%len(l.names)], body)
		}
		return commands
	}
	for i := 0; i < n; i += ingestPerBatch {
		var batch []byte
		for k := i; k < i+ingestPerBatch; k++ {
			batch = sseproto.AppendBatched(batch, l.names[k%len(l.names)], body)
		}
		commands = l.publish(commands, batchChannel, string(batch))
	}
	return commands
}

// publish appends a message on the shard channel.
func (l *lane) publish(dst []byte, channel, payload string) []byte {
	dst = fmt.Appendf(dst, "*3\r\n$8\r\nSPUBLISH\r\n$%d\r\n%s\r\n", len(l.keys.Messages), l.keys.Messages)
	return fmt.Appendf(dst, "$%d\r\n%s\n%s\r\n", len(channel)+1+len(payload), channel, payload)
}

// written returns nil when the history has the mark.
func (l *lane) written(mark int) error {
	reply, err := l.ask.Do("XREVRANGE", l.keys.Stream(l.marker), "+", "-", "COUNT", "1")
	if err != nil {
		return err
	}
	if newest, ok := newestData(reply); !ok || newest != strconv.Itoa(mark) {
		return fmt.Errorf("mark %d is not written: %v", mark, reply)
	}
	return nil
}

// newestData is the field data of the first entry of a stream; false: there is none.
func newestData(reply any) (data string, ok bool) {
	entries, _ := reply.([]any)
	if len(entries) == 0 {
		return "", false
	}
	entry, _ := entries[0].([]any)
	if len(entry) < 2 {
		return "", false
	}
	fields, _ := entry[1].([]any)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == "data" {
			data, ok = fields[i+1].(string)
		}
	}
	return data, ok
}

// close ends everything, the newest first.
func (f *ingestFleet) close() {
	for _, stop := range slices.Backward(f.stops) {
		stop()
	}
}
