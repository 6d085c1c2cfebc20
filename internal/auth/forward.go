package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"ssed/engine"
)

const (
	// maxDenialBytes is the longest body that is passed on.
	maxDenialBytes = 4 << 10
	// queueFactor times Concurrency may wait. With the defaults, 1024, and answers
	// that take 50 ms, the last of them waits 0.8 s of its 2 s.
	queueFactor = 16
)

// forward asks a service.
type forward struct {
	// fixed after construction
	url      string
	client   *http.Client
	timeout  time.Duration
	gate     *gate
	grants   *cache // nil: nothing is remembered
	denials  *cache
	needsEnd bool // every grant must have an end

	outage   outage
	counters *counters
}

func newForward(cfg *Config, counters *counters) *forward {
	f := &forward{
		url:      cfg.URL,
		client:   newClient(cfg, cfg.Concurrency),
		timeout:  cfg.Timeout,
		gate:     newGate(cfg.Concurrency, queueFactor*cfg.Concurrency),
		outage:   outage{logger: cfg.Logger, what: "asking the service"},
		counters: counters,
		needsEnd: cfg.RequireExp,
	}
	if cfg.CacheTTL > 0 {
		f.grants = newCache(cfg.CacheTTL, maxGrants)
		f.denials = newCache(min(cfg.CacheTTL, denialTTL), maxDenials)
	}
	return f
}

func (f *forward) close() { f.client.CloseIdleConnections() }

// Authorize implements engine.Authorizer.
func (f *forward) Authorize(ctx context.Context, r *engine.AuthRequest) (engine.Grant, error) {
	header := forwardHeader(r)
	var key cacheKey
	if f.grants != nil {
		key = keyOf(r, header)
		if a := f.remembered(key); a != nil {
			f.counters.cached.Add(1)
			return f.tell(a, r.Channels)
		}
	}
	// The time to wait counts: a client is not to be kept longer because there are many.
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	leave, err := f.gate.enter(ctx, r.Client)
	if err != nil {
		return engine.Grant{}, f.counters.unavailable(RefusedQueue)
	}
	var generation uint64
	if f.grants != nil {
		generation = f.grants.now()
	}
	a, err := f.ask(ctx, header, r.Channels)
	leave()
	if err != nil {
		return engine.Grant{}, err
	}
	if f.grants != nil {
		f.remember(key, a, generation)
	}
	return f.tell(a, r.Channels)
}

// forget has the service asked again about everyone. What it is being asked now is not
// remembered either. Both caches are of the same generation.
func (f *forward) forget() {
	if f.grants != nil {
		f.grants.clear()
		f.denials.clear()
	}
}

func (f *forward) remembered(key cacheKey) *answer {
	if a := f.grants.get(key); a != nil {
		return a
	}
	return f.denials.get(key)
}

func (f *forward) remember(key cacheKey, a *answer, generation uint64) {
	switch {
	case a.denial == nil:
		f.grants.put(key, a, generation)
	case a.isFinal():
		f.denials.put(key, a, generation)
	}
}

// tell is what an answer means for a request.
func (f *forward) tell(a *answer, asked []string) (engine.Grant, error) {
	switch {
	case a.denial != nil:
		f.counters.refused[a.why].Add(1)
		return engine.Grant{}, a.denial
	case a.isOver(time.Now()):
		return engine.Grant{}, f.counters.refuse(RefusedExpired, http.StatusUnauthorized, "unauthorized: the grant expired", "")
	}
	grant := engine.Grant{Channels: asked, Subject: a.subject, Expires: a.expires}
	if a.granted != nil {
		grant.Channels = make([]string, len(a.granted))
		for i, index := range a.granted {
			grant.Channels[i] = asked[index]
		}
	}
	return grant, nil
}

// ask returns the answer of the service, or the refusal when it gave none.
func (f *forward) ask(ctx context.Context, header http.Header, channels []string) (*answer, error) {
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
	var a *answer
	switch status := resp.StatusCode; {
	// Nothing was asked that 304 could be the answer to; it would be one without a body.
	case status < 200, status > 599, status == http.StatusNotModified:
		err = fmt.Errorf("status %d", status)
	case status > 299:
		a = denialOf(resp, body, isWhole)
	default:
		a, err = grantOf(resp.Header, channels, f.needsEnd)
	}
	if err != nil {
		f.outage.note(err)
		return nil, f.counters.refuse(RefusedFailure, http.StatusBadGateway, "authorization failed", "")
	}
	f.outage.note(faultOf(resp.StatusCode))
	return a, nil
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
	if status >= 500 {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// readShort reads a body to its end, which lets the connection be used again, unless
// it is longer than may be passed on.
func readShort(body io.Reader) (text string, isWhole bool) {
	b, err := io.ReadAll(io.LimitReader(body, maxDenialBytes+1))
	return string(b), err == nil && len(b) <= maxDenialBytes
}
