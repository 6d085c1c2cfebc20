package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ssed/engine"
	"ssed/sseproto"
)

const (
	// maxDenialBytes is the longest body that is passed on.
	maxDenialBytes = 4 << 10
	// queueFactor times Concurrency may wait. With the defaults, 1024, and answers
	// that take 50 ms, the last of them waits 0.8 s of its 2 s.
	queueFactor = 16
	// fieldChannels narrows the channels in an answer, and lists them in a request.
	fieldChannels = "X-SSE-Channels"
)

var errQueueFull = errors.New("auth: too many wait for the service")

// forward asks a service.
type forward struct {
	// fixed after construction
	url      string
	client   *http.Client
	timeout  time.Duration
	gate     gate
	cache    *cache // nil: none
	outage   outage
	counters *counters
}

func newForward(cfg *Config, counters *counters) *forward {
	f := &forward{
		url:      cfg.URL,
		client:   newClient(cfg.Concurrency),
		timeout:  cfg.Timeout,
		gate:     gate{slots: make(chan struct{}, cfg.Concurrency), maxWaiting: int64(queueFactor * cfg.Concurrency)},
		outage:   outage{logger: cfg.Logger, what: "asking the service"},
		counters: counters,
	}
	if cfg.CacheTTL > 0 {
		f.cache = newCache(cfg.CacheTTL)
	}
	return f
}

func (f *forward) close() { f.client.CloseIdleConnections() }

// Authorize implements engine.Authorizer.
func (f *forward) Authorize(ctx context.Context, r *engine.AuthRequest) (engine.Grant, error) {
	header := forwardHeader(r)
	var key cacheKey
	if f.cache != nil {
		key = keyOf(r, header)
		if channels, ok := f.cache.get(key, r.Channels); ok {
			f.counters.cached.Add(1)
			return engine.Grant{Channels: channels}, nil
		}
	}
	// The time to wait counts: a client is not to be kept longer because there are many.
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := f.gate.enter(ctx); err != nil {
		return engine.Grant{}, f.counters.unavailable(RefusedQueue)
	}
	channels, err := f.ask(ctx, header, r.Channels)
	f.gate.leave()
	if err != nil {
		return engine.Grant{}, err
	}
	if f.cache != nil {
		f.cache.put(key, r.Channels, channels)
	}
	return engine.Grant{Channels: channels}, nil
}

// ask returns the channels that are granted, or the refusal.
func (f *forward) ask(ctx context.Context, header http.Header, channels []string) ([]string, error) {
	f.counters.asked.Add(1)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, f.failed(ctx, errProtocol) // Validate has parsed the URL
	}
	req.Header = header
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, f.failed(ctx, plainError(err))
	}
	defer resp.Body.Close()
	body, isWhole := readShort(resp.Body)
	f.outage.note(faultOf(resp.StatusCode))
	switch status := resp.StatusCode; {
	// Nothing was asked that 304 could be the answer to; it would be one without a body.
	case status < 200, status > 599, status == http.StatusNotModified:
		return nil, f.counters.refuse(RefusedFailure, http.StatusBadGateway, "authorization failed", "")
	case status > 299:
		return nil, f.passOn(resp, body, isWhole)
	}
	granted := narrow(channels, resp.Header.Values(fieldChannels))
	if len(granted) == 0 {
		return nil, f.counters.refuse(RefusedChannels, http.StatusForbidden, "forbidden", "")
	}
	return granted, nil
}

// failed is the refusal when there was no answer. A client that leaves while it
// waits says nothing about the service.
func (f *forward) failed(ctx context.Context, err error) *engine.Denial {
	if !errors.Is(ctx.Err(), context.Canceled) {
		f.outage.note(err)
	}
	return f.counters.unavailable(RefusedFailure)
}

// faultOf tells answers that a service gives when it works from others.
func faultOf(status int) error {
	if status < 200 || status >= 500 {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// passOn makes the refusal of the service ours. The body of a 5xx stays here: it is
// about the service and not for clients.
func (f *forward) passOn(resp *http.Response, body string, isWhole bool) *engine.Denial {
	f.counters.refused[RefusedService].Add(1)
	d := &engine.Denial{Status: resp.StatusCode, Body: body}
	if !isWhole || body == "" || resp.StatusCode >= 500 {
		d.Body = strings.ToLower(http.StatusText(resp.StatusCode)) + "\n"
	}
	names := []string{"WWW-Authenticate", "Retry-After"}
	if resp.StatusCode < 400 {
		names = append(names, "Location")
	}
	for _, name := range names {
		for _, value := range resp.Header.Values(name) {
			d.Fields = append(d.Fields, sseproto.Field{Name: name, Value: value})
		}
	}
	return d
}

// readShort reads a body to its end, which lets the connection be used again, unless
// it is longer than may be passed on.
func readShort(body io.Reader) (text string, isWhole bool) {
	b, err := io.ReadAll(io.LimitReader(body, maxDenialBytes+1))
	return string(b), err == nil && len(b) <= maxDenialBytes
}

// narrow returns the channels that the fields of an answer grant: all without a field.
func narrow(channels, fields []string) []string {
	if fields == nil {
		return channels
	}
	var globs []string
	for _, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			if part = strings.Trim(part, " \t"); part != "" {
				globs = append(globs, unescapeGlob(part))
			}
		}
	}
	var granted []string
	for _, channel := range channels {
		if matchAny(globs, channel) {
			granted = append(granted, channel)
		}
	}
	return granted
}

// unescapeGlob turns "%XX" into that octet, escaped: it stands for itself in the
// glob. A "%" before anything else stands for itself as it is.
func unescapeGlob(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if s[0] == '%' && len(s) >= 3 {
			if octet, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				b.WriteByte('\\')
				b.WriteByte(byte(octet))
				s = s[3:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// gate lets a number of callers in and a number wait.
type gate struct {
	slots      chan struct{}
	waiting    atomic.Int64
	maxWaiting int64
}

func (g *gate) enter(ctx context.Context) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	if g.waiting.Add(1) > g.maxWaiting {
		g.waiting.Add(-1)
		return errQueueFull
	}
	defer g.waiting.Add(-1)
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) leave() { <-g.slots }
