package doctor

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// start tells whether the fields of a request reach ssed by which it knows a browser's own
// EventSource.
func (p *probe) start() {
	const check = "proxy: request fields"
	p.mu.Lock()
	started := p.started
	p.mu.Unlock()
	switch {
	case !p.StartBlock:
		p.skip(check, "not tried: with this --start-id ssed does not look at them")
	case started:
		p.ok(check, "Accept, Cache-Control and Pragma reach ssed: it gives browsers the position of the beginning")
	default:
		p.warn(check, "the stream began without a position, so Cache-Control or Pragma of the request did not reach ssed. A browser that is cut off before its first event then misses messages",
			"pass both fields on as they are; or start=id in the URL of the stream; or --start-id on")
	}
}

// resume opens a stream as a client does that comes back after the first message. Nothing
// is published meanwhile that could push what it missed through a buffer.
func (p *probe) resume(ctx context.Context, ids []string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	again := &probe{doctor: p.doctor, Proxy: p.Proxy, check: "proxy: resume", lastID: ids[0]}
	begin := time.Now()
	if _, _, ok := again.open(ctx); !ok {
		return
	}
	came, ended := again.collect(ctx, probes-1)
	missing := 0
	var last time.Time
	for _, at := range came.at[1:] {
		if at.IsZero() {
			missing++
		} else if at.After(last) {
			last = at
		}
	}
	switch {
	case missing == 0:
		p.ok(again.check, fmt.Sprintf("%d messages behind a Last-Event-ID, within %v", probes-1, round(last.Sub(begin))))
	case ended:
		p.fail(again.check, fmt.Sprintf("the stream was cut before %d of %d messages came: %v", missing, probes-1, again.end), p.timeouts())
	case came.gap != "":
		p.fail(again.check, "a gap came instead of the messages: "+came.gap, "is --history off, or does --public-url lead to instances of another Redis?")
	default:
		again.heldOrLost(ctx, missing)
	}
	cancel()
	again.drain()
}

// heldOrLost tells an answer that is held back from one to a request without its
// Last-Event-ID, by one more message.
func (p *probe) heldOrLost(ctx context.Context, missing int) {
	if err := p.Publish(ctx, "0"); err != nil {
		p.fail(p.check, "a message could not be published: "+err.Error(), "")
		return
	}
	came, _ := p.collect(ctx, 1)
	if !came.at[0].IsZero() && missing == probes-1 {
		p.fail(p.check, "a resume starts at now, so Last-Event-ID of the request does not reach ssed. Clients that come back miss messages, without a gap",
			"pass Last-Event-ID on; or last_event_id in the query, as ssed.js sends it")
		return
	}
	p.fail(p.check, fmt.Sprintf("%d of %d messages behind a Last-Event-ID did not come within %v: they are held back", missing, probes-1, p.Patience), p.unbuffer(p.response))
}

const (
	leavers = 3
	// farewells is how many messages are written to clients that have gone. A write to a
	// closed connection fails when the answer to the one before is there.
	farewells = 20
)

// leave opens streams, closes them and looks when they are closed at ssed.
func (p *probe) leave(ctx context.Context) {
	const check = "proxy: clients that leave"
	if p.Streams == nil {
		p.skip(check, "not tried: give --admin-url, to count the open streams")
		return
	}
	open, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []*probe
	for range leavers {
		one := &probe{doctor: p.doctor, Proxy: p.Proxy, check: check}
		if _, _, ok := one.open(open); !ok {
			return
		}
		all = append(all, one)
	}
	left, err := p.untilStreams(ctx, func(n int) bool { return n >= leavers })
	if err == nil && left < leavers {
		err = fmt.Errorf("the instances know %d of %d streams", left, leavers)
	}
	if err != nil {
		p.skip(check, "the open streams could not be counted: "+err.Error())
		return
	}
	cancel()
	for _, one := range all {
		one.drain()
	}
	none := func(n int) bool { return n == 0 }
	if left, err = p.untilStreams(ctx, none); err == nil && left == 0 {
		p.ok(check, "their streams are closed at once")
		return
	}
	for i := range farewells {
		if err == nil {
			err = p.Publish(ctx, strconv.Itoa(i))
		}
		if err != nil || !p.pause(ctx) {
			break
		}
		if left, err = p.countStreams(ctx); err == nil && left == 0 {
			p.ok(check, fmt.Sprintf("their streams are closed when writes to them fail, here after %d messages: the next heartbeats do that", i+1))
			return
		}
	}
	const fix = "--max-age 1h bounds them; Node's http-proxy: close ssed's answer when the client's is closed (docs/PROXIES.md)"
	text := fmt.Sprintf("%d streams stay open at ssed though their clients have gone, and %d messages were written to them", left, farewells)
	switch {
	case err != nil:
		p.skip(check, "it could not be found out: "+err.Error())
	case p.MaxAge > 0:
		p.warn(check, text+fmt.Sprintf("; --max-age %v ends them", p.MaxAge), fix)
	default:
		p.fail(check, text+". They add up", fix)
	}
}

func (p *probe) countStreams(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	return p.Streams(ctx)
}

// untilStreams asks a few times for the open streams.
func (p *probe) untilStreams(ctx context.Context, enough func(int) bool) (n int, err error) {
	for range probes {
		if n, err = p.countStreams(ctx); err != nil || enough(n) {
			return n, err
		}
		if !p.pause(ctx) {
			break
		}
	}
	return n, err
}

// pause waits for p.Pace, and tells whether to go on.
func (p *probe) pause(ctx context.Context) bool {
	select {
	case <-time.After(p.Pace):
		return true
	case <-ctx.Done():
		return false
	}
}
