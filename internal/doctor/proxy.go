package doctor

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ssed/internal/outbound"
	"ssed/sseproto"
)

// Proxy says how to try what is between clients and ssed.
type Proxy struct {
	// URL is that of a stream as clients open it, with the path, without channels.
	URL string
	// Token is sent as Authorization: Bearer. Empty: none.
	Token string
	// Channel gets the messages that are tried with. Nobody else should listen on it.
	Channel string
	// Publish sends a message on it.
	Publish func(ctx context.Context, data string) error
	// Streams counts the open streams of the channel at all instances. Nil: nobody can be
	// asked.
	Streams func(ctx context.Context) (int, error)
	// StartBlock tells that ssed gives the position of its beginning to a stream that looks
	// like one of a browser's EventSource, and to no other.
	StartBlock bool
	// MaxAge is --max-age; 0: none.
	MaxAge time.Duration
	// Time is for how long the stream rests afterwards, to find timeouts. 0: not at all.
	Time time.Duration
	// Pace is the time between two messages. 0: 100 ms.
	Pace time.Duration
	// Patience is how long the beginning of a stream, or a message, may take before it
	// counts as held back. 0: 5 s.
	Patience time.Duration

	// dial takes the place of TCP where it is set: tests have a network of their own.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

const (
	// encoding is what proxies compress with; it is undone here.
	encoding        = "gzip"
	defaultPace     = 100 * time.Millisecond
	defaultPatience = 5 * time.Second
	probes          = 10
	// quickEvent is far above what Redis, ssed and a network take.
	quickEvent = 500 * time.Millisecond
	// quickWrite is how much longer than the network a message may be on its way. HAProxy
	// waits for 200 ms whether more of a body in chunks comes, unless it is told not to.
	quickWrite = 120 * time.Millisecond
)

// probe is one stream that is tried with.
type probe struct {
	*doctor
	*Proxy
	check    string // what its beginning is told as
	lastID   string // sent as Last-Event-ID, if there is one
	response *http.Response
	network  time.Duration // that a connection took to be there: there and back
	arrivals chan arrival  // closed at the end of the stream
	end      error         // why it ended; read after arrivals is closed

	comments uint64 // that were counted; owned by read

	mu      sync.Mutex
	beats   []time.Time // guarded by mu: when heartbeats came
	started bool        // guarded by mu: a position came before the first event
}

// arrival is an event that came.
type arrival struct {
	kind, id, data string
	at             time.Time
}

func (d *doctor) proxy(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	proxy := *d.Proxy
	if proxy.Pace == 0 {
		proxy.Pace = defaultPace
	}
	if proxy.Patience == 0 {
		proxy.Patience = defaultPatience
	}
	p := &probe{doctor: d, Proxy: &proxy, check: "proxy: begin"}
	began, first, ok := p.open(ctx)
	if !ok {
		return
	}
	p.ok(p.check, fmt.Sprintf("the head after %v, the first line after %v", round(began), round(first)))
	p.head()
	ids, ok := p.events(ctx)
	if ok {
		p.start()
		p.resume(ctx, ids)
		p.idle(ctx)
	}
	cancel()
	p.drain()
	if ok {
		p.leave(context.WithoutCancel(ctx))
	}
}

// drain waits for the end of the stream.
func (p *probe) drain() {
	for range p.arrivals {
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// open starts the stream and waits for its first byte. ssed sends the head and a
// retry: line at once.
func (p *probe) open(ctx context.Context) (head, first time.Duration, ok bool) {
	check := p.check
	p.arrivals = make(chan arrival, 1024)
	begin := time.Now()
	firstByte := make(chan time.Time, 1)
	resp, err := p.request(ctx)
	switch {
	case isTimeout(err):
		p.fail(check, fmt.Sprintf("no head within %v: the answer is held back", p.Patience), p.unbuffer(nil))
		return 0, 0, false
	case err != nil:
		p.fail(check, fmt.Sprintf("no answer: %v", outbound.WithoutURL(err)), noAnswerFix(err))
		return 0, 0, false
	}
	head = time.Since(begin)
	p.response = resp
	if !p.isStream() {
		_ = resp.Body.Close() // nothing is lost
		return 0, 0, false
	}
	go p.read(resp.Body, firstByte)
	select {
	case at, ok := <-firstByte:
		if ok {
			return head, at.Sub(begin), true
		}
		p.fail(check, fmt.Sprintf("the stream ended before its first byte: %v", p.end), p.timeouts())
	case <-time.After(p.Patience):
		p.fail(check, fmt.Sprintf("the head came after %v, but not a byte of the stream within %v: it is held back", round(head), p.Patience), p.unbuffer(resp))
	case <-ctx.Done():
	}
	_ = resp.Body.Close() // ends read
	p.drain()
	return 0, 0, false
}

func (p *probe) request(ctx context.Context) (*http.Response, error) {
	target, err := url.Parse(p.URL)
	if err != nil {
		return nil, err
	}
	query := target.Query()
	query.Set("channel_id", p.Channel)
	target.RawQuery = query.Encode()
	var dialled time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: func(string, string) { dialled = time.Now() },
		ConnectDone:  func(string, string, error) { p.network = time.Since(dialled) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-cache") // this and the next as an EventSource does
	req.Header.Set("Pragma", "no-cache")
	if p.lastID != "" {
		req.Header.Set("Last-Event-ID", p.lastID)
	}
	req.Header.Set("Accept-Encoding", encoding) // as a browser does
	if p.Token != "" {
		req.Header.Set("Authorization", "Bearer "+p.Token)
	}
	transport := outbound.Transport(p.Patience)
	transport.DisableKeepAlives = true
	if p.dial != nil {
		transport.DialContext = p.dial
	}
	client := http.Client{ // it makes a header of a password in the URL
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // an answer to tell of
	}
	return client.Do(req)
}

// noAnswerFix says what to change where there was no answer.
func noAnswerFix(err error) string {
	if isUntrusted(err) {
		return "SSL_CERT_FILE=PATH before ssed doctor, with the certificate of the authority that signed the proxy's in PEM; browsers must trust it, too"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "--public-url with a name that the certificate has, or a certificate with this name"
	}
	return "--public-url as a client has it; is the proxy running, and does the name lead to it?"
}

// isUntrusted tells a certificate that no known authority has signed.
func isUntrusted(err error) bool {
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// isStream judges the head.
func (p *probe) isStream() bool {
	check := p.check
	kind, _, _ := mime.ParseMediaType(p.response.Header.Get("Content-Type"))
	switch status := p.response.StatusCode; {
	case status == http.StatusOK && kind == "text/event-stream":
		return true
	case status == http.StatusOK:
		p.fail(check, fmt.Sprintf("the answer is %q, not an event stream", kind), "--public-url with the path of ssed, such as https://example.com/sse/connect")
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		p.fail(check, "the answer is "+p.response.Status, "--token-file with a token for the channel "+p.Channel+", or --probe-channel")
	case status >= 500:
		p.fail(check, "the answer is "+p.response.Status, "is ssed running, does the proxy have its address, and is /ready 200?")
	default:
		p.fail(check, "the answer is "+p.response.Status, "--public-url with the path of ssed, such as https://example.com/sse/connect")
	}
	return false
}

// read decodes the stream until it ends.
func (p *probe) read(body io.ReadCloser, first chan<- time.Time) {
	defer close(p.arrivals)
	defer close(first)
	defer body.Close()
	decoder := sseproto.Decoder{MaxBytes: 1 << 20}
	var now time.Time
	met := false // an event
	decoder.OnEvent = func(id, eventType, data []byte) {
		met = true
		if len(data) == 0 && len(eventType) > 0 && string(eventType) == p.HeartbeatEvent {
			p.beat(now)
			return
		}
		select {
		case p.arrivals <- arrival{string(eventType), string(id), string(data), now}:
		default: // a busy channel: not ours, or nobody waits any more
		}
	}
	buf := make([]byte, 32<<10)
	stream, err := p.decompress(body)
	if err != nil {
		p.end = err
		return
	}
	for begun := false; ; {
		n, err := stream.Read(buf)
		now = time.Now()
		if n > 0 && !begun {
			begun = true
			first <- now
		}
		if _, writeErr := decoder.Write(buf[:n]); err == nil {
			err = writeErr
		}
		if !met && len(decoder.LastEventID()) > 0 {
			p.mu.Lock()
			p.started = true
			p.mu.Unlock()
		}
		if total := decoder.Comments(); total > p.comments {
			p.comments = total
			p.beat(now)
		}
		if err != nil {
			p.end = err
			return
		}
	}
}

// decompress waits for the first bytes where the proxy compresses.
func (p *probe) decompress(body io.Reader) (io.Reader, error) {
	if p.response.Header.Get("Content-Encoding") != encoding {
		return body, nil
	}
	return gzip.NewReader(body)
}

func (p *probe) beat(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beats = append(p.beats, now)
}

func (p *probe) heartbeats() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.beats)
}

// head tells what the proxy made of the answer.
func (p *probe) head() {
	if got := p.response.Header.Get("Content-Encoding"); got != "" {
		p.warn("proxy: compression", fmt.Sprintf("the proxy compresses the stream (Content-Encoding %s), although ssed says no-transform: that takes memory for each stream, and may delay events", got),
			"no compression of text/event-stream: nginx: gzip_types without it, or gzip off; HAProxy: compression type without it")
	} else {
		p.ok("proxy: compression", "none")
	}
	if got := p.response.Header.Get("Cache-Control"); !strings.Contains(got, "no-transform") {
		p.warn("proxy: head", fmt.Sprintf("Cache-Control is %q, and ssed sends no-cache, no-transform: what is in front of the proxy may store or compress streams", got),
			"no rule that removes or replaces Cache-Control of this path")
	} else {
		p.ok("proxy: head", "Cache-Control as ssed sends it")
	}
	const check = "proxy: HTTP version"
	version := p.response.Proto
	if p.response.ProtoMajor < 2 && p.response.TLS != nil {
		p.warn(check, version+": a browser opens six streams per host over all tabs", "HTTP/2 to clients: nginx: http2 on (or listen … ssl http2); HAProxy: alpn h2,http/1.1 on bind")
		return
	}
	if p.response.ProtoMajor < 2 {
		version += ": a browser opens six streams per host over all tabs; with TLS the proxy can speak HTTP/2"
	}
	p.ok(check, version)
}

// events publishes messages at a steady pace and looks when they come. It returns their
// IDs.
func (p *probe) events(ctx context.Context) (ids []string, ok bool) {
	const check = "proxy: events"
	sent, done := make([]time.Time, probes), make([]time.Time, probes)
	pace := time.NewTicker(p.Pace)
	defer pace.Stop()
	for i := range probes {
		sent[i] = time.Now()
		if err := p.Publish(ctx, strconv.Itoa(i)); err != nil {
			p.fail(check, "a message could not be published: "+err.Error(), "")
			return nil, false
		}
		done[i] = time.Now()
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil, false
		}
	}
	came, ended := p.collect(ctx, probes)
	return came.ids, p.judge(sent, done, came.at, ended)
}

// cameIn is what has come of the messages 0, 1, 2, …; the zero time: it has not.
type cameIn struct {
	at  []time.Time
	ids []string
	gap string // the data of event: gap, if one came
}

// collect waits for so many messages, each once, or until p.Patience is over.
func (p *probe) collect(ctx context.Context, want int) (came cameIn, ended bool) {
	came = cameIn{at: make([]time.Time, probes), ids: make([]string, probes)}
	deadline := time.NewTimer(p.Patience)
	defer deadline.Stop()
	for want > 0 {
		select {
		case a, ok := <-p.arrivals:
			if !ok {
				return came, true
			}
			if a.kind == sseproto.EventGap {
				came.gap = a.data
			}
			if i, err := strconv.Atoi(a.data); err == nil && i >= 0 && i < probes && came.at[i].IsZero() {
				came.at[i], came.ids[i] = a.at, a.id
				want--
			}
		case <-deadline.C:
			return came, false
		case <-ctx.Done():
			return came, false
		}
	}
	return came, false
}

// judge tells buffering by events that come late, or together although they were sent
// apart.
func (p *probe) judge(sent, done, came []time.Time, ended bool) bool {
	const check = "proxy: events"
	var delays, extra []time.Duration
	together := 0
	for i := range came {
		if came[i].IsZero() {
			continue
		}
		delays = append(delays, came[i].Sub(sent[i]))
		extra = append(extra, came[i].Sub(done[i])-2*p.network)
		if i > 0 && !came[i-1].IsZero() && came[i].Sub(came[i-1]) < sent[i].Sub(sent[i-1])/5 {
			together++
		}
	}
	slices.Sort(delays)
	slices.Sort(extra)
	lost := probes - len(delays)
	switch {
	case lost == probes && ended:
		p.fail(check, fmt.Sprintf("the stream ended before a message came: %v", p.end), "is ssed ready (GET /ready) and below --max-connections? Else "+p.timeouts())
	case lost > 0 && ended:
		p.fail(check, fmt.Sprintf("the stream was cut after %d of %d messages: %v", len(delays), probes, p.end), p.timeouts())
	case lost == probes:
		p.fail(check, fmt.Sprintf("none of %d messages came within %v: they are held back, or --public-url leads to instances of another Redis", probes, p.Patience), p.unbuffer(p.response))
	case lost > 0:
		p.fail(check, fmt.Sprintf("%d of %d messages did not come within %v: they are held back", lost, probes, p.Patience), p.unbuffer(p.response))
	case together >= probes/2:
		p.fail(check, fmt.Sprintf("%d messages sent %v apart came several at once, the last %v late: they are held back", probes, p.Pace, round(delays[probes-1])), p.unbuffer(p.response))
	case extra[0] > quickWrite:
		p.warn(check, fmt.Sprintf("%d messages came one by one, but each of them at least %v later than the network needs", probes, round(extra[0])),
			"HAProxy: option http-no-delay, without which it keeps each event for 200 ms; others: whatever waits for more of an answer, off for this path")
	case delays[probes/2] > quickEvent:
		p.warn(check, fmt.Sprintf("half of the messages took more than %v", round(delays[probes/2])), "try --public-url without the proxy. If that is quick: "+p.unbuffer(p.response))
	default:
		p.ok(check, fmt.Sprintf("%d messages, each at once: half within %v, all within %v", probes, round(delays[probes/2]), round(delays[probes-1])))
	}
	return lost == 0
}

// idle lets the stream rest: only heartbeats come.
func (p *probe) idle(ctx context.Context) {
	const check = "proxy: quiet stream"
	switch {
	case p.Time == 0:
		p.skip(check, "not tried; --probe-time 2m finds timeouts that are shorter than the time between heartbeats")
		return
	case p.Heartbeat <= 0:
		p.skip(check, "heartbeats are off")
		return
	}
	begin := time.Now()
	timer := time.NewTimer(p.Time)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case _, ok := <-p.arrivals:
			if !ok {
				p.fail(check, fmt.Sprintf("it was cut after %v: %v. A heartbeat comes every %v", time.Since(begin).Round(time.Second), p.end, p.Heartbeat), p.timeouts())
				return
			}
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			return
		}
	}
	beats := 0
	for _, at := range p.heartbeats() {
		if at.After(begin) {
			beats++
		}
	}
	want := int(p.Time / (p.Heartbeat + p.Heartbeat/8)) // ssed looks eight times per period
	switch {
	case want == 0:
		p.ok(check, fmt.Sprintf("it stayed open for %v; no heartbeat was due yet (--heartbeat %v)", p.Time, p.Heartbeat))
	case beats < want:
		p.fail(check, fmt.Sprintf("%d of %d heartbeats came in %v: they are held back", beats, want, p.Time), p.unbuffer(p.response))
	default:
		p.ok(check, fmt.Sprintf("it stayed open for %v, with %d heartbeats", p.Time, beats))
	}
}

// unbuffer says what to change where an answer is held back; resp may be nil.
func (p *probe) unbuffer(resp *http.Response) string {
	const (
		nginx   = "nginx: no proxy_ignore_headers X-Accel-Buffering, or proxy_buffering off; no gzip for text/event-stream"
		haproxy = "HAProxy: option http-no-delay, no compression of text/event-stream, no response rules that wait for the body. lighttpd: server.stream-response-body = 1"
	)
	switch {
	case resp != nil && strings.Contains(strings.ToLower(resp.Header.Get("Server")), "nginx"):
		return nginx
	case resp != nil && strings.Contains(strings.ToLower(resp.Header.Get("Server")), "lighttpd"):
		return "lighttpd: server.stream-response-body = 1"
	case resp != nil && resp.Header.Get("X-Accel-Buffering") != "":
		return haproxy + ". X-Accel-Buffering: no comes through, so nothing in between follows it"
	}
	return nginx + ". " + haproxy + ". Others: whatever buffers, caches or scans answers, off for this path"
}

func (p *probe) timeouts() string {
	long := max(3*p.Heartbeat, 45*time.Second)
	return fmt.Sprintf("timeouts longer than the heartbeat: nginx: proxy_read_timeout %d s; HAProxy: timeout client and timeout server %d s; or a smaller --heartbeat",
		int(long.Seconds()), int(long.Seconds()))
}
