//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ssed/internal/child"
	"ssed/loadtest/neighbour"
	"ssed/loadtest/report"
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

// The bar of every row: what a neighbour may add to the canary's idle p99, and its
// slowest message.
const (
	barAdded = 10 * time.Millisecond
	barMax   = 50 * time.Millisecond
)

// besides is one kind of neighbour.
type besides struct {
	name, about string
	kind        neighbour.Kind
	count       int     // connections at 1×, of the kinds that stand
	rate        float64 // operations a second at 1×, of the others
	each        int     // channels of one connection
	channels    int     // there are so many
	args        []string
	history     int // messages on these channels before anything is measured
	// traffic on the channels while it is measured
	burst   int     // messages when the neighbour is in place, before it is measured
	again   int     // messages at once every second
	perSec  float64 // messages a second
	body    func(bytes int) []byte
	bytes   int
	scaled  bool // perSec grows with the size, count does not
	resumes bool // needs a server that keeps a history
}

func plain(bytes int) []byte { return []byte(strings.Repeat("x", bytes)) }

func lineEnds(bytes int) []byte { return []byte(strings.Repeat("\n", bytes)) }

// hostileNeighbours are in the order of the report.
var hostileNeighbours = []besides{
	{
		name: "never reads", about: "Clients with the smallest buffers that never read, on one of two hot channels; 30,000 messages of a byte before, 500 a second meanwhile.",
		kind: neighbour.NeverReads, count: 50, channels: 2, burst: 30_000, perSec: 500, bytes: 1, body: plain,
	},
	{
		name: "never reads, two channels", about: "The same on both channels: every message is one of two heads.",
		kind: neighbour.NeverReads, count: 50, channels: 2, each: 2, burst: 30_000, perSec: 500, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "never reads, then silence", about: "The same on both channels, and no message meanwhile.",
		kind: neighbour.NeverReads, count: 50, channels: 2, each: 2, burst: 30_000, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "reads a byte at a time", about: "Clients with the smallest buffers that read one byte every 100 ms.",
		kind: neighbour.DripReads, count: 50, channels: 2, perSec: 100, bytes: 1000, body: plain,
	},
	{
		name: "resets at random bytes", about: "Connections that are reset at a random byte of the request or the answer.",
		kind: neighbour.Resets, rate: 50, channels: 1,
	},
	{
		name: "resumes everything", about: "Clients that come with the oldest ID and read 10,000 messages.",
		kind: neighbour.Resumes, rate: 2, channels: 1, history: 10_000, bytes: 100, body: plain, resumes: true,
	},
	{
		name: "resumes 32 channels", about: "The same over 32 of 64 channels, which hold 100,000 messages of one byte.",
		kind: neighbour.Resumes, rate: 1, each: 32, channels: 64, history: 100_000, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "1,024 channels", about: "Streams of 1,024 channels each; every second a burst of 2,048 messages over all of them.",
		kind: neighbour.Reads, count: 4, each: 1024, channels: 1024, args: []string{"--max-channels-per-connection", "1024"},
		again: 2048, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "huge messages", about: "Five messages of 1,000,000 bytes a second.",
		kind: neighbour.Reads, count: 2, channels: 1, perSec: 5, bytes: 1_000_000, body: plain,
	},
	{
		name: "line ends", about: "Messages of 256 KiB of nothing but line ends; one client.",
		kind: neighbour.Reads, count: 1, channels: 1, perSec: 1, scaled: true, bytes: 256 << 10, body: lineEnds,
	},
	{
		name: "connect storm", about: "Clients that connect, wait for the answer and leave.",
		kind: neighbour.Connects, rate: 100, channels: 1,
	},
	{
		name: "abandoned resumes", about: "Clients that come with an ID of their own and leave at once.",
		kind: neighbour.Abandons, rate: 20, channels: 1, resumes: true,
	},
	{
		name: "half-open heads", about: "Connections that send half a request head; those that the server closes come back.",
		kind: neighbour.HalfHead, count: 200, channels: 1,
	},
	{
		name: "full sockets at the ring's end", about: "Clients that never read while a ring of 4 MiB turns once a second; those that the server closes come back.",
		kind: neighbour.NeverReads, count: 50, channels: 2, args: []string{"--ring-bytes", "4MiB"}, perSec: 1000, bytes: 4000, body: plain,
	},
	{
		name: "a million channel names", about: "Clients that ask for 1,024 names which nobody had before, and leave.",
		kind: neighbour.FreshName, rate: 16, each: 1024, args: []string{"--max-channels-per-connection", "1024"}, resumes: true,
	},
	{
		name: "pipelined requests", about: "Connections with 50 requests at once that are no streams.",
		kind: neighbour.Pipelines, rate: 20, channels: 1,
	},
}

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

func (r *hostileRow) describe(*options) report.Scenario {
	unit := "connections"
	input := strconv.Itoa(r.count)
	switch {
	case r.scaled:
		unit, input = "messages a second", strconv.FormatFloat(r.perSec, 'g', -1, 64)
	case r.rate > 0:
		unit, input = "a second", strconv.FormatFloat(r.rate, 'g', -1, 64)
	}
	s := report.Scenario{
		Name:  hostilePrefix + r.name,
		About: r.about,
		Params: []report.Param{
			param("canary channels", canaries), param("messages a second", canaryRate),
			param("neighbour at 1×, "+unit, input), param("for", r.duration),
		},
		Metrics: []report.Metric{
			{Key: "p50_alone", Label: "canary alone, p50", Unit: "ms", Better: report.Less},
			{Key: "p99_alone", Label: "canary alone, p99", Unit: "ms", Better: report.Less},
			{Key: "max_alone", Label: "canary alone, max", Unit: "ms", Better: report.Less},
			{Key: "late_alone", Label: "sender late alone, p99", Unit: "ms"},
			{Key: "cpu_alone", Label: "server CPU alone", Unit: "% of a core", Better: report.Less},
		},
	}
	if r.burst > 0 {
		s.Params = append(s.Params, param("messages before", r.burst))
	}
	for _, n := range r.sizes {
		key, at := func(what string) string { return what + "_" + strconv.Itoa(n) }, fmt.Sprintf("%d×: ", n)
		s.Metrics = append(s.Metrics,
			report.Metric{Key: key("p50"), Label: at + "canary p50", Unit: "ms", Better: report.Less},
			report.Metric{Key: key("p99"), Label: at + "canary p99", Unit: "ms", Better: report.Less},
			report.Metric{Key: key("max"), Label: at + "canary max", Unit: "ms", Better: report.Less},
			report.Metric{Key: key("late"), Label: at + "sender late, p99", Unit: "ms"},
			report.Metric{Key: key("cpu"), Label: at + "server CPU", Unit: "% of a core", Better: report.Less},
			report.Metric{Key: key("rss"), Label: at + "server memory beyond that alone", Unit: "MB", Better: report.Less},
			report.Metric{Key: key("input"), Label: at + "the neighbour did", Unit: r.inputUnit()},
		)
	}
	s.Metrics = append(s.Metrics, hostileVerdict("")...)
	return s
}

func (r *hostileRow) inputUnit() string {
	switch {
	case r.scaled:
		return "messages/s"
	case r.rate > 0:
		return "1/s"
	}
	return "connections"
}

// hostileVerdict are the figures that the bar is about; those of a neighbour have its
// name in the summary.
func hostileVerdict(name string) []report.Metric {
	label := func(text string) string {
		if name == "" {
			return text
		}
		return name + ": " + text
	}
	return []report.Metric{
		{Key: name + "added_p99", Label: label("worst p99 beyond that alone"), Unit: "ms", Better: report.Less},
		{Key: name + "worst_max", Label: label("worst max"), Unit: "ms", Better: report.Less},
		{Key: name + "cpu_growth", Label: label("CPU per input, largest size to smallest"), Unit: "×", Better: report.Less},
		{Key: name + "rss_growth", Label: label("memory per input, largest size to smallest"), Unit: "×", Better: report.Less},
	}
}

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

// record notes the figures of the canary and of the server's CPU.
func (x *hostileRun) record(phase string, p hostilePoint) {
	at := phase
	if phase != "alone" {
		at += "×"
	}
	x.stage.set("cpu_"+phase, p.cpu*100)
	x.stage.set("late_"+phase, ms(p.late))
	if p.lost > 0 {
		x.stage.note("%s: %d messages to the canary were lost", at, p.lost)
	}
	if !p.arrived {
		x.stage.note("%s: nothing reached the canary", at)
		return
	}
	for what, d := range map[string]time.Duration{"p50": p.p50, "p99": p.p99, "max": p.max} {
		x.stage.set(what+"_"+phase, ms(d))
	}
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

// judge records the figures that the bar is about.
func (x *hostileRun) judge(alone hostilePoint) {
	var added, most time.Duration
	late := alone.late
	silent := !alone.arrived
	for _, p := range x.points {
		silent = silent || !p.arrived
		late = max(late, p.late)
		added, most = max(added, p.p99-alone.p99), max(most, p.max)
	}
	s := x.stage
	if !silent {
		s.set("added_p99", ms(added))
		s.set("worst_max", ms(most))
	}
	if growth, ok := costGrowth(x.points, leastCPU, func(p hostilePoint) float64 { return p.cpu - alone.cpu }); ok {
		s.set("cpu_growth", growth)
	}
	if growth, ok := costGrowth(x.points, leastRSS, func(p hostilePoint) float64 { return float64(p.rss) }); ok {
		s.set("rss_growth", growth)
	}
	if late > lateNote {
		s.note("messages were sent late by more than %v (p99): the machine is too busy for these latencies to be the server's", lateNote)
	}
	if added > barAdded || most > barMax {
		s.note("above the bar: %.1f ms of p99 added (%v may be), max %.1f ms (%v)", ms(added), barAdded, ms(most), barMax)
	}
}

// Costs below which a size is not compared: what the canary alone varies by.
const (
	leastCPU = 0.02    // of a core
	leastRSS = 4 << 20 // bytes
)

// costGrowth is the cost for each unit of input at the largest size, divided by that at
// the smallest whose cost can be told from nothing. Above 1 the cost grows faster than
// the input.
func costGrowth(points []hostilePoint, least float64, cost func(hostilePoint) float64) (growth float64, ok bool) {
	last := points[len(points)-1]
	for _, p := range points[:len(points)-1] {
		if c := cost(p); c >= least && p.input > 0 && last.input > 0 {
			return cost(last) / last.input / (c / p.input), true
		}
	}
	return 0, false
}

// neighbours is a neighbour in a process of its own.
type neighbours struct {
	process *child.Process
	stdin   io.Closer
	results chan neighbour.Result // closed at the end of its output
	last    neighbour.Result
}

// start plays n times the neighbour, and returns when its connections stand.
func (x *hostileRun) start(ctx context.Context, n int) (*neighbours, error) {
	spec, err := x.spec(n)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "serve-neighbour")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	nb := &neighbours{stdin: stdin, results: make(chan neighbour.Result, 2)}
	nb.process, err = child.Start(cmd, func() {
		defer close(nb.results)
		dec := json.NewDecoder(stdout)
		for {
			var r neighbour.Result
			if dec.Decode(&r) != nil {
				return
			}
			nb.results <- r
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start a neighbour: %w", err)
	}
	if err := json.NewEncoder(stdin).Encode(spec); err != nil {
		nb.stop()
		return nil, fmt.Errorf("start a neighbour: %w", err)
	}
	select {
	case r, ok := <-nb.results:
		if !ok || !r.Ready {
			return nil, fmt.Errorf("the neighbour did not get in place: %s%s", r.Error, nb.stop().Error)
		}
		return nb, nil
	case <-ctx.Done():
		nb.stop()
		return nil, context.Cause(ctx)
	}
}

// stop ends it and returns what it did. It may be called again.
func (nb *neighbours) stop() neighbour.Result {
	_ = nb.stdin.Close() // it ends with its input
	for r := range nb.results {
		nb.last = r
	}
	<-nb.process.Done()
	return nb.last
}

func (x *hostileRun) spec(n int) (spec neighbour.Spec, err error) {
	t := &x.stage.target
	spec = neighbour.Spec{
		Kind: x.kind, Channels: x.names, Each: x.each, Count: x.count, Rate: x.rate * float64(n),
		LastID: x.lastID, Until: until,
	}
	if !x.scaled {
		spec.Count *= n
	}
	if spec.Addr, err = t.Addr(); err != nil {
		return spec, err
	}
	if spec.Request, err = t.Request(); err != nil {
		return spec, err
	}
	spec.Key = spec.Request[0][strings.LastIndexAny(spec.Request[0], "?&")+1:]
	if strings.HasPrefix(spec.Key, "GET ") {
		return spec, fmt.Errorf("target %s: the channel is no parameter of the query", t.Name)
	}
	spec.Key = "&" + spec.Key
	spec.Sources = x.stage.sources(spec.Addr.Addr(), 20*connsPerSource)
	return spec, nil
}

// summariseHostile puts the figures that the bar is about of all neighbours into one
// scenario, before theirs.
func summariseHostile(out *report.Report) {
	first := slices.IndexFunc(out.Scenarios, func(s report.Scenario) bool { return strings.HasPrefix(s.Name, hostilePrefix) })
	if first < 0 {
		return
	}
	rows := out.Scenarios[first:]
	sum := report.Scenario{
		Name:    "hostile",
		About:   "The canary beside each neighbour, the worst of its sizes. The figures of each follow.",
		Params:  []report.Param{param("bar, p99 added", barAdded), param("bar, max", barMax), param("bar, cost per input", "1×")},
		Targets: rows[0].Targets, References: rows[0].References,
	}
	runs := map[string]*report.Run{}
	for _, row := range rows {
		name := strings.TrimPrefix(row.Name, hostilePrefix)
		sum.Metrics = append(sum.Metrics, hostileVerdict(name)...)
		for _, r := range row.Runs {
			key := fmt.Sprint(r.Target, r.Round)
			if runs[key] == nil {
				runs[key] = &report.Run{Target: r.Target, Round: r.Round, Values: map[string]float64{}}
			}
			for _, m := range hostileVerdict("") {
				if v, ok := r.Values[m.Key]; ok {
					runs[key].Values[name+m.Key] = v
				}
			}
		}
	}
	for _, round := range rows[0].Runs {
		sum.Runs = append(sum.Runs, *runs[fmt.Sprint(round.Target, round.Round)])
	}
	out.Scenarios = slices.Insert(out.Scenarios, first, sum)
}
