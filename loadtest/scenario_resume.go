//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
)

// resume drops all connections and brings them back at once.
type resume struct {
	Channels int `help:"Channels the connections are spread over." default:"1"`
	Missed   int `help:"Messages per channel that are sent while all are away." default:"10"`
}

func (re *resume) describe(o *options) report.Scenario {
	conns, bytes := re.load(o)
	return report.Scenario{
		Name:   "resume",
		About:  "All clients drop, miss messages and come back at once with Last-Event-ID; compared with the same number of plain connects.",
		Params: []report.Param{param("connections", conns), param("channels", re.Channels), param("missed messages", re.Missed), param("bytes", bytes)},
		Metrics: []report.Metric{
			{Key: "plain_s", Label: "plain connects, all heads there", Unit: "s", Better: report.Less},
			{Key: "plain_per_s", Label: "plain connects per second", Unit: "1/s", Better: report.More, Plot: true},
			{Key: "resume_s", Label: "resume, all caught up", Unit: "s", Better: report.Less, Plot: true},
			{Key: "resume_ratio", Label: "resume / plain", Unit: "×", Better: report.Less, Plot: true},
			{Key: "plain_cpu_us", Label: "server CPU per plain connect", Unit: "µs", Better: report.Less},
			{Key: "resume_cpu_us", Label: "server CPU per resume", Unit: "µs", Better: report.Less},
			{Key: "redis_reads", Label: "XRANGE and XREAD calls during the resume", Unit: "", Better: report.Less},
		},
	}
}

// ssedArgs leaves the inbox out: each tick looks into it by an XRANGE, ten a second, which
// would count as reads of the history.
func (re *resume) ssedArgs() []string { return []string{"--inbox=off"} }

func (re *resume) load(o *options) (conns, bytes int) {
	return orDefault(o.Conns, 15000), orDefault(o.Bytes, 128)
}

func (re *resume) run(ctx context.Context, s *stage) error {
	if err := s.warmUp(ctx); err != nil {
		return err
	}
	fds := s.fds()
	prefix := s.prefix()
	c, err := s.crew(prefix, here, swarm.Group{Count: s.conns, Channels: uint32(re.Channels)})
	if err != nil {
		return err
	}
	// The first time fills the server's tables, which is not what is compared.
	if _, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "connecting, first time"); err != nil {
		return err
	}
	if err := s.leave(ctx, c, fds); err != nil {
		return err
	}
	if err := re.plain(ctx, s, c); err != nil {
		return err
	}
	f, err := s.feed(prefix, 0, re.Channels)
	if err != nil {
		return err
	}
	if err := re.learnIDs(ctx, s, c, f); err != nil || !s.target.Resumes {
		return err
	}
	if err := s.leave(ctx, c, fds); err != nil {
		return err
	}
	return re.comeBack(ctx, s, c, f)
}

// leave drops all and waits until the server has seen it.
func (s *stage) leave(ctx context.Context, c *swarm.Crew, fds int) error {
	s.progress.show("disconnecting", nil)
	if err := c.Drop(ctx, 0, true); err != nil {
		return err
	}
	return s.awaitFDs(ctx, fds)
}

// plain measures connects without an id.
func (re *resume) plain(ctx context.Context, s *stage, c *swarm.Crew) error {
	cost := s.meter()
	opened, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "connecting")
	if err != nil {
		return err
	}
	s.set("plain_s", opened.Elapsed().Seconds())
	s.set("plain_per_s", float64(s.conns)/opened.Elapsed().Seconds())
	if cpu, _, ok := cost.read(); ok {
		s.set("plain_cpu_us", cpu.Total.Seconds()*1e6/float64(s.conns))
	}
	return nil
}

// learnIDs sends a message to every connection, so that it has an id to resume with.
func (re *resume) learnIDs(ctx context.Context, s *stage, c *swarm.Crew, f *feed) error {
	if err := re.toAll(f, 1); err != nil {
		return err
	}
	if _, err := s.awaitAll(ctx, c, f, 0, "its message"); err != nil {
		return err
	}
	if err := c.Audit(ctx, 0, f.seqs); err != nil {
		return err
	}
	if _, err := s.collect(ctx, c, ""); err != nil {
		return err
	}
	n, err := c.Resumable(ctx)
	switch {
	case err != nil:
		return err
	case !s.target.Resumes:
		s.note("keeps no history: only plain connects were measured")
	case n < s.conns:
		return fmt.Errorf("%d of %d connections got no event id to resume with", s.conns-n, s.conns)
	}
	return mark(ctx, c, f)
}

// toAll sends count messages on every channel.
func (re *resume) toAll(f *feed, count int) error {
	for range count {
		for i := range f.seqs {
			if err := f.send(i, swarm.Now()); err != nil {
				return err
			}
		}
	}
	return f.pub.Settle()
}

// comeBack measures the reconnects until the last missed message has arrived.
func (re *resume) comeBack(ctx context.Context, s *stage, c *swarm.Crew, f *feed) error {
	if err := re.toAll(f, re.Missed); err != nil {
		return err
	}
	reads, readsKnown := redisReads(s.target.Publish)
	cost := s.meter()
	opened, err := s.open(ctx, c, 0, swarm.OpenSpec{Resume: true}, "coming back")
	if err != nil {
		return err
	}
	caughtUp, err := s.awaitAll(ctx, c, f, 0, "what was missed")
	if err != nil {
		return err
	}
	took := nanos(max(caughtUp, opened.End) - opened.Start)
	s.set("resume_s", took.Seconds())
	s.set("resume_ratio", took.Seconds()/s.run.Values["plain_s"])
	if cpu, _, ok := cost.read(); ok {
		s.set("resume_cpu_us", cpu.Total.Seconds()*1e6/float64(s.conns))
	}
	if now, ok := redisReads(s.target.Publish); ok && readsKnown {
		s.set("redis_reads", float64(now-reads))
	}
	if err := c.Audit(ctx, 0, f.seqs); err != nil {
		return err
	}
	// The latency of what was missed is the time away, which says nothing.
	_, err = s.collect(ctx, c, "")
	return err
}

// redisReads is how often history was read so far, from INFO commandstats; false
// when messages do not go through a Redis that answers.
func redisReads(publish string) (calls int, ok bool) {
	u, err := url.Parse(publish)
	if err != nil || u.Scheme != "redis" || u.User != nil {
		return 0, false
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return 0, false
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("INFO commandstats\r\n")); err != nil {
		return 0, false
	}
	r := bufio.NewReader(conn)
	head, err := r.ReadString('\n')
	size, convErr := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil || convErr != nil {
		return 0, false
	}
	for size > 0 {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, false
		}
		size -= len(line)
		calls += readCalls(strings.TrimSpace(line))
	}
	return calls, true
}

// readCalls takes the calls out of "cmdstat_xrange:calls=12,usec=…".
func readCalls(line string) int {
	name, rest, _ := strings.Cut(line, ":calls=")
	switch name {
	case "cmdstat_xrange", "cmdstat_xrevrange", "cmdstat_xread":
		count, _, _ := strings.Cut(rest, ",")
		n, _ := strconv.Atoi(count)
		return n
	}
	return 0
}
