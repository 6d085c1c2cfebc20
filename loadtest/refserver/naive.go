//go:build linux

package refserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// naiveQueue is the length of a connection's channel. It is long enough for a
// burst; a client that falls further behind is disconnected.
const naiveQueue = 256

// Naive is a running naive server.
type Naive struct {
	// URL is where streams are served, PublishURL where messages are posted.
	URL        string
	PublishURL string

	beat   time.Duration
	server *http.Server
	serial atomic.Uint64
	done   chan struct{}

	mu       sync.Mutex
	channels map[string]map[chan string]struct{}
}

// StartNaive listens on a free port of 127.0.0.1 and serves until Close. Each
// stream gets a comment line every beat, whether or not it was silent.
func StartNaive(beat time.Duration) (*Naive, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("naive: %w", err)
	}
	n := &Naive{
		beat:       beat,
		URL:        "http://" + l.Addr().String() + "/sse/connect?channel_id={channel}",
		PublishURL: "http://" + l.Addr().String() + "/publish?channel_id={channel}",
		done:       make(chan struct{}),
		channels:   map[string]map[chan string]struct{}{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sse/connect", n.stream)
	mux.HandleFunc("POST /publish", n.publish)
	n.server = &http.Server{Handler: mux}
	go func() {
		defer close(n.done)
		_ = n.server.Serve(l) // always ErrServerClosed, after Close
	}()
	return n, nil
}

// Close ends the server and all connections.
func (n *Naive) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n.mu.Lock()
	for _, members := range n.channels {
		for queue := range members {
			close(queue)
			delete(members, queue)
		}
	}
	n.mu.Unlock()
	if n.server.Shutdown(ctx) != nil {
		n.server.Close()
	}
	<-n.done
}

func (n *Naive) stream(w http.ResponseWriter, r *http.Request) {
	channel := r.URL.Query().Get("channel_id")
	queue := n.join(channel)
	defer n.leave(channel, queue)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	control := http.NewResponseController(w)
	if control.Flush() != nil {
		return
	}
	tick := time.NewTicker(n.beat)
	defer tick.Stop()
	for {
		frame, ok := heartbeat, true
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		case frame, ok = <-queue:
			if !ok {
				return
			}
		}
		if _, err := io.WriteString(w, frame); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
	}
}

func (n *Naive) join(channel string) chan string {
	queue := make(chan string, naiveQueue)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.channels[channel] == nil {
		n.channels[channel] = map[chan string]struct{}{}
	}
	n.channels[channel][queue] = struct{}{}
	return queue
}

func (n *Naive) leave(channel string, queue chan string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.channels[channel], queue)
}

func (n *Naive) publish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessageBytes))
	if err != nil {
		http.Error(w, "message too large", http.StatusRequestEntityTooLarge)
		return
	}
	frame := fmt.Sprintf("id: 1700000000000-%d\ndata: %s\n\n", n.serial.Add(1), body)
	n.mu.Lock()
	defer n.mu.Unlock()
	members := n.channels[r.URL.Query().Get("channel_id")]
	for queue := range members {
		select {
		case queue <- frame:
		default: // too slow
			close(queue)
			delete(members, queue)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
