//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	r3labs "github.com/r3labs/sse/v2"
	"github.com/tmaxmax/go-sse"
	"gopkg.in/cenkalti/backoff.v1"
)

// startR3labs has three additions to what the README of r3labs/sse tells, which any
// application needs: the client gives up when the server ends a stream, its default
// delays are not those of the stream, and its events are at most 64 KiB.
func startR3labs(t testing.TB, url string, show func(event)) {
	tested.add("Go r3labs/sse", moduleVersion(t, "github.com/r3labs/sse/v2"))
	background(t, func(ctx context.Context) {
		readByR3labs(ctx, url, showing(show), losing(show))
	})
}

// snippet r3labs
func readByR3labs(ctx context.Context, url string, show func(kind, id, data string), lost func(error)) {
	client := r3labs.NewClient(url, r3labs.ClientMaxBufferSize(4<<20)) // its default: 64 KiB
	client.ReconnectStrategy = &backoff.StopBackOff{}                  // the loop below comes back
	client.Connection = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		// The client keeps the ID of the last event, and sends it.
		err := client.SubscribeRawWithContext(ctx, func(e *r3labs.Event) {
			if e.Data != nil { // it shows a block without data, too
				show(string(e.Event), string(e.ID), string(e.Data))
			}
		})
		lost(err)
		time.Sleep(time.Second)
	}
}

// end

func startGoSSE(t testing.TB, url string, show func(event)) {
	tested.add("Go tmaxmax/go-sse", moduleVersion(t, "github.com/tmaxmax/go-sse"))
	background(t, func(ctx context.Context) {
		if err := readByGoSSE(ctx, url, showing(show), losing(show)); ctx.Err() == nil {
			t.Error(err)
		}
	})
}

// snippet go-sse
func readByGoSSE(ctx context.Context, url string, show func(kind, id, data string), lost func(error)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := sse.Client{
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		OnRetry:    func(err error, _ time.Duration) { lost(err) },
	}
	conn := client.NewConnection(req)
	conn.Buffer(nil, 4<<20) // its default: 64 KiB
	conn.SubscribeToAll(func(e sse.Event) {
		if e.Data != "" { // it shows a block without data, too
			show(e.Type, e.LastEventID, e.Data)
		}
	})
	return conn.Connect() // it comes back by itself
}

// end

func startBareR3labs(t testing.TB, url string, show func(event)) {
	background(t, func(ctx context.Context) {
		_ = r3labs.NewClient(url).SubscribeRawWithContext(ctx, func(e *r3labs.Event) { show(event{Data: string(e.Data)}) })
	})
}

func startBareGoSSE(t testing.TB, url string, show func(event)) {
	background(t, func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Error(err)
			return
		}
		client := sse.Client{HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
		conn := client.NewConnection(req)
		conn.SubscribeToAll(func(e sse.Event) { show(event{Data: e.Data}) })
		_ = conn.Connect() // until the test ends
	})
}

func showing(show func(event)) func(kind, id, data string) {
	return func(kind, id, data string) { show(event{Event: orMessage(kind), ID: id, Data: data}) }
}

func losing(show func(event)) func(error) {
	return func(err error) {
		if err == nil {
			show(event{Lost: lostAtEnd})
			return
		}
		show(event{Lost: err.Error()})
	}
}

func moduleVersion(t testing.TB, path string) string {
	return versionOf(t, "go", "list", "-m", "-f", "{{.Version}}", path)
}
