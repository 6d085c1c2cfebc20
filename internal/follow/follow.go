// Package follow reads an event stream for as long as it likes, as an EventSource
// does (HTML §9.2): it comes back with the last ID after the time that the stream
// told, and gives up where a browser would.
package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ssed/internal/outbound"
	"ssed/sseproto"
)

// Config says what to follow.
type Config struct {
	// URL is that of the stream, with its channels.
	URL string
	// Token is sent as Authorization: Bearer. Empty: none.
	Token string
	// Since is the first Last-Event-ID. Empty: the stream starts at now.
	Since string
	// OnEvent gets every event, in order, on the goroutine of Run.
	OnEvent func(id, eventType, data string)
	// OnNote gets what a person should know: that the stream ended, when it goes on.
	OnNote func(text string)
}

// Bounds of a client. What is longer than maxEventBytes ends Run: the largest
// --max-message-bytes is 256 MiB, and invalid UTF-8 triples it at most.
const (
	maxEventBytes  = 1 << 30
	headTimeout    = 15 * time.Second
	defaultRetry   = 3 * time.Second        // as browsers have it, about
	minRetry       = 100 * time.Millisecond // a server that told 0 would be asked without a pause
	maxRetry       = 30 * time.Second
	maxAnswerBytes = 500
)

// Refused is an answer after which a browser gives up for good.
type Refused struct {
	Status string // "403 Forbidden"
	Text   string // the begin of the body
}

// Error implements error.
func (e *Refused) Error() string {
	if e.Text == "" {
		return "the answer is " + e.Status
	}
	return "the answer is " + e.Status + ": " + e.Text
}

// errNoStream is a success that is none.
var errNoStream = errors.New("the answer is no event stream: is the URL that of ssed's public port?")

// Run follows until ctx ends (no error then), the server refuses, or the first
// connection fails: later ones are tried again and again. last is the ID with which
// to go on.
func Run(ctx context.Context, cfg Config) (last string, err error) {
	return run(ctx, cfg, outbound.Transport(headTimeout))
}

func run(ctx context.Context, cfg Config, transport *http.Transport) (last string, err error) {
	f := &follower{cfg: cfg, client: &http.Client{Transport: transport}}
	defer transport.CloseIdleConnections()
	f.decoder.MaxBytes = maxEventBytes
	f.decoder.OnEvent = func(id, eventType, data []byte) {
		f.events++
		cfg.OnEvent(string(id), string(eventType), string(data))
	}
	for failures := 0; ; {
		f.events = 0
		wait, err := f.connect(ctx)
		if ctx.Err() != nil {
			return f.lastID(), nil
		}
		if err != nil && (f.connects == 0 || isFinal(err)) {
			return f.lastID(), err
		}
		failures++
		if err == nil || f.events > 0 {
			failures = 0
		}
		wait = delay(wait, failures)
		f.cfg.OnNote(reason(err) + "; trying again in " + wait.Round(100*time.Millisecond).String())
		select {
		case <-ctx.Done():
			return f.lastID(), nil
		case <-time.After(wait):
		}
	}
}

// isFinal tells errors that another attempt does not change.
func isFinal(err error) bool {
	_, refused := errors.AsType[*Refused](err)
	return refused || errors.Is(err, errNoStream) || errors.Is(err, sseproto.ErrEventTooLarge)
}

// delay is the time that the server told, at least minRetry, doubled for every failure after the first,
// and up to a fifth more, so that many do not come at once.
func delay(told time.Duration, failures int) time.Duration {
	told = max(told, minRetry)
	if told < maxRetry {
		told = min(told<<min(max(failures-1, 0), 10), maxRetry)
	}
	return told + rand.N(told/5+1)
}

func reason(err error) string {
	if err == nil {
		return "the server ended the stream"
	}
	return err.Error()
}

// follower is the state over connections. One goroutine.
type follower struct {
	cfg      Config
	client   *http.Client
	decoder  sseproto.Decoder
	connects int // streams that began
	events   int // of this connection
}

func (f *follower) lastID() string {
	if id := f.decoder.LastEventID(); len(id) > 0 {
		return string(id)
	}
	return f.cfg.Since
}

// connect reads one stream to its end; nil when the server ended it. wait is how long
// to stay away.
func (f *follower) connect(ctx context.Context) (wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.cfg.URL, nil)
	if err != nil {
		return 0, outbound.WithoutURL(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-store")
	if id := f.lastID(); id != "" {
		req.Header.Set("Last-Event-ID", id)
	}
	if f.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+f.cfg.Token)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return f.retry(), fmt.Errorf("connection failed: %w", outbound.WithoutURL(err))
	}
	defer resp.Body.Close()
	if wait, err := f.judge(resp); err != nil {
		return wait, err
	}
	f.connects++
	f.decoder.Reconnected()
	_, err = io.Copy(&f.decoder, resp.Body)
	return f.retry(), err
}

// judge returns an error for what is no stream.
func (f *follower) judge(resp *http.Response) (wait time.Duration, err error) {
	wait = f.retry()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusOK && kind == "text/event-stream":
		return wait, nil
	case resp.StatusCode == http.StatusOK:
		return wait, errNoStream
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes)) // what there is of it
	refused := &Refused{Status: resp.Status, Text: oneLine(body)}
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return wait, refused
	}
	f.connects++ // it is there, and says when to come back
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		wait = min(time.Duration(seconds)*time.Second, maxRetry)
	}
	return wait, errors.New(refused.Error())
}

func (f *follower) retry() time.Duration {
	if told, ok := f.decoder.Retry(); ok {
		return told
	}
	return defaultRetry
}

// oneLine keeps what can be shown.
func oneLine(body []byte) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body), "")), " ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, text)
}
