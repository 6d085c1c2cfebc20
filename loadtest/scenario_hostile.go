//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// hostile measures a few small channels, the canary, beside clients that no server
// wishes for.
type hostile struct {
	Neighbour []string      `help:"Only these neighbours, by name." placeholder:"NAME" sep:"none"`
	Duration  time.Duration `help:"How long, once alone and once beside each size of the neighbour." default:"4s"`
	Sizes     []int         `help:"Multiples of the neighbour that are tried, ascending." default:"1,4,16"`
	Burst     int           `help:"Messages before a neighbour is measured, where it has such; 0: 30,000." placeholder:"N"`
}

// The canary: as many channels as loops of a usual machine and more, so that each has some.
const (
	canaries   = 8
	canaryRate = 400 // messages a second over all of them
)

func (h *hostile) scenarios() (list []scenario) {
	for _, b := range hostileNeighbours {
		if len(h.Neighbour) > 0 && !slices.Contains(h.Neighbour, b.name) {
			continue
		}
		if b.burst > 0 && h.Burst > 0 {
			b.burst = h.Burst
		}
		list = append(list, &hostileRow{besides: b, duration: h.Duration, sizes: h.Sizes})
	}
	return list
}

// Validate is called by the flags' parser.
func (h *hostile) Validate() error {
	for _, name := range h.Neighbour {
		if !slices.ContainsFunc(hostileNeighbours, func(b besides) bool { return b.name == name }) {
			return fmt.Errorf("no neighbour %q", name)
		}
	}
	for k, n := range h.Sizes {
		if n < 1 || k > 0 && n <= h.Sizes[k-1] {
			return fmt.Errorf("sizes %v: not ascending from 1", h.Sizes)
		}
	}
	if len(h.Sizes) == 0 || h.Burst < 0 {
		return errors.New("--sizes needs one at least, and --burst no fewer than 0")
	}
	return nil
}

// hostilePrefix begins the names of the scenarios of hostile.
const hostilePrefix = "hostile: "

// hostileRow is the scenario of one neighbour.
type hostileRow struct {
	besides
	duration time.Duration
	sizes    []int // ascending
}

func (r *hostileRow) ssedArgs() []string { return r.args }

func (r *hostileRow) load(*options) (conns, bytes int) {
	most := r.sizes[len(r.sizes)-1]
	if r.scaled {
		most = 1
	}
	return canaries + r.count*most, 128
}

func (r *hostileRow) run(ctx context.Context, s *stage) error {
	if r.resumes && !s.target.Resumes {
		s.note("has one channel a connection and no history: not measured")
		return nil
	}
	x := &hostileRun{hostileRow: r, stage: s}
	if err := x.prepare(ctx); err != nil {
		return err
	}
	alone, err := x.canary(ctx, "alone")
	if err != nil {
		return err
	}
	x.record("alone", alone)
	for _, n := range r.sizes {
		if err := x.beside(ctx, n); err != nil {
			return err
		}
	}
	x.judge(alone)
	return nil
}

// hostileRun is one neighbour beside one server.
type hostileRun struct {
	*hostileRow
	stage  *stage
	crew   *swarm.Crew
	feed   *feed
	pub    *target.Publisher // of what the neighbour reads
	names  []string
	next   int    // message, on names in turn
	lastID string // before all of the history
	idle   target.Memory
	points []hostilePoint
}

// hostilePoint is what was seen at one size.
type hostilePoint struct {
	p50, p99, max time.Duration
	late          time.Duration // the sender itself, p99
	arrived       bool          // something did; else there is no latency
	lost          int64         // messages to the canary, of a server without a history
	cpu           float64       // share of a core
	rss           int64         // bytes beyond those alone
	input         float64       // what the neighbour did; a second, where it is not connections
}

// until ends a history.
const until = "the end of the history"

func (x *hostileRun) prepare(ctx context.Context) (err error) {
	s := x.stage
	if err := s.warmUp(ctx); err != nil {
		return err
	}
	prefix := s.prefix()
	if x.crew, err = s.crew(prefix, closely, swarm.Group{Count: canaries, Channels: canaries}); err != nil {
		return err
	}
	if _, err := s.open(ctx, x.crew, 0, swarm.OpenSpec{}, "connecting the canary"); err != nil {
		return err
	}
	if x.feed, err = s.feed(prefix, 0, canaries); err != nil {
		return err
	}
	for k := range x.channels {
		// A request for 1,024 of them has to fit in a head of 16 KiB.
		x.names = append(x.names, strconv.FormatInt(int64(k), 36))
	}
	if err := x.fill(ctx); err != nil {
		return err
	}
	// The first messages of a channel cost more than the others.
	if _, err := x.canary(ctx, ""); err != nil {
		return err
	}
	x.idle, err = target.ReadMemory(s.target.PIDs)
	return err
}

// fill publishes the history, and learns an ID before it.
func (x *hostileRun) fill(ctx context.Context) error {
	if x.history == 0 {
		return nil
	}
	x.stage.progress.show("filling the ring", nil)
	id, err := x.firstID(ctx)
	if err != nil {
		return err
	}
	x.lastID = id
	hangUp, err := x.dialPublisher()
	if err != nil {
		return err
	}
	defer hangUp()
	if err := x.send(x.body(x.bytes), x.history); err != nil {
		return err
	}
	if err := x.send([]byte(until), len(x.names)); err != nil {
		return err
	}
	return x.pub.Settle()
}

// firstID publishes until a stream on the first channel shows an ID.
func (x *hostileRun) firstID(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, x.stage.opts.Limit)
	defer cancel()
	url := strings.ReplaceAll(x.stage.target.URL, target.Placeholder, x.names[0])
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	hangUp, err := x.dialPublisher()
	if err != nil {
		return "", err
	}
	defer hangUp()
	if err := x.pub.Publish(x.names[0], []byte("first")); err != nil {
		return "", err
	}
	if err := x.pub.Settle(); err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			return id, nil
		}
	}
	return "", errors.New("the stream ended before an ID")
}

// canary sends to it for a time and records its latency under a name, unless that is empty.
func (x *hostileRun) canary(ctx context.Context, phase string) (p hostilePoint, err error) {
	s := x.stage
	s.watch(x.crew, "the canary "+phase)
	x.feed.lag.Reset()
	before, seen := s.cpu(s.target.PIDs)
	began := time.Now()
	if err := s.openLoop(ctx, x.crew, x.feed, canaryRate, x.duration); err != nil {
		return p, err
	}
	now, stillSeen := s.cpu(s.target.PIDs)
	if seen && stillSeen {
		p.cpu = now.Sub(before).Total.Seconds() / time.Since(began).Seconds()
	}
	st, err := x.crew.Stats(ctx)
	if err != nil {
		return p, err
	}
	if phase != "" {
		s.phase(phase, st)
	}
	if !s.target.Resumes {
		// The built-in servers promise nothing to slow or many clients: what they lose
		// is a result, not a fault of the run.
		p.lost, st.Counts = st.Counts.Lost, swarm.Counts{}
	}
	s.run.Counts.Add(st.Counts)
	p.arrived = st.Latency.Count() > 0
	p.late = x.feed.lag.Quantile(0.99)
	p.p50, p.p99, p.max = st.Latency.Quantile(0.5), st.Latency.Quantile(0.99), st.Latency.Max()
	return p, mark(ctx, x.crew, x.feed)
}

// beside measures the canary beside n times the neighbour.
func (x *hostileRun) beside(ctx context.Context, n int) error {
	s := x.stage
	s.progress.show(fmt.Sprintf("%d× %s", n, x.name), nil)
	fds := s.fds()
	nb, err := x.start(ctx, n)
	if err != nil {
		return err
	}
	defer nb.stop()
	hangUp, err := x.dialPublisher()
	if err != nil {
		return err
	}
	defer hangUp()
	if err := x.sendBurst(); err != nil {
		return err
	}
	sending, stop := context.WithCancel(ctx)
	var sender sync.WaitGroup
	var sendErr error
	defer sender.Wait()
	defer stop()
	sender.Go(func() { sendErr = x.traffic(sending, n) })
	began := time.Now()
	p, err := x.canary(ctx, fmt.Sprintf("beside %d×", n))
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	memory, err := target.ReadMemory(s.target.PIDs)
	if err != nil {
		return err
	}
	stop()
	if sender.Wait(); sendErr != nil {
		return sendErr
	}
	did := nb.stop()
	if did.Error != "" {
		return errors.New(did.Error)
	}
	p.rss = memory.RSS - x.idle.RSS
	switch {
	case x.scaled:
		p.input = x.perSec * float64(n)
	case x.rate > 0:
		p.input = float64(did.Done) / took
	default:
		p.input = float64(x.count * n)
	}
	if did.Missed+did.Failed > 0 {
		s.note("%d×: %d operations failed, %d could not begin in time", n, did.Failed, did.Missed)
	}
	x.record(strconv.Itoa(n), p)
	s.set("rss_"+strconv.Itoa(n), float64(p.rss)/1e6)
	s.set("input_"+strconv.Itoa(n), p.input)
	x.points = append(x.points, p)
	return s.awaitFDs(ctx, fds)
}

// dialPublisher makes the connection for what the neighbour gets. It is a new one each
// time: a server closes what stays idle.
func (x *hostileRun) dialPublisher() (hangUp func(), err error) {
	if x.body == nil {
		return func() {}, nil
	}
	if x.pub, err = target.NewPublisher(&x.stage.target); err != nil {
		return nil, err
	}
	return x.pub.Close, nil
}

// sendBurst publishes what the neighbour gets before it is measured.
func (x *hostileRun) sendBurst() error {
	if x.burst == 0 {
		return nil
	}
	if err := x.send(x.body(x.bytes), x.burst); err != nil {
		return err
	}
	return x.pub.Settle()
}

// send publishes on the neighbour's channels in turn.
func (x *hostileRun) send(body []byte, count int) error {
	for range count {
		if err := x.pub.Publish(x.names[x.next%len(x.names)], body); err != nil {
			return err
		}
		x.next++
	}
	return x.pub.Flush()
}

// traffic publishes until ctx ends.
func (x *hostileRun) traffic(ctx context.Context, n int) error {
	if x.perSec == 0 && x.again == 0 {
		return nil
	}
	body := x.body(x.bytes)
	if err := x.send(body, x.again); err != nil {
		return err
	}
	rate := x.perSec
	if x.scaled {
		rate *= float64(n)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	second, sent, began := time.NewTicker(time.Second), 0, time.Now()
	defer second.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return x.pub.Settle()
		case <-second.C:
			err = x.send(body, x.again)
		case <-tick.C:
			due := int(rate * time.Since(began).Seconds())
			err = x.send(body, due-sent)
			sent = due
		}
		if err != nil {
			return err
		}
	}
}
