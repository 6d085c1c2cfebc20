package rstore

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("rstore: closed")

// link is a client that is made when it is first needed, so that Redis or its
// Sentinels may be absent at start.
type link struct {
	opt rueidis.ClientOption
	wg  sync.WaitGroup // dials and closings under way

	mu     sync.Mutex
	client rueidis.Client
	dial   *dial // under way, nil otherwise
	closed bool
}

type dial struct {
	done chan struct{}
	err  error // valid after done
}

// get returns the client. Callers at the same time share one attempt to make it.
func (l *link) get(ctx context.Context) (rueidis.Client, error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, ErrClosed
		}
		if c := l.client; c != nil {
			l.mu.Unlock()
			return c, nil
		}
		d := l.dial
		if d == nil {
			d = &dial{done: make(chan struct{})}
			l.dial = d
			l.wg.Go(func() { l.make(d) })
		}
		l.mu.Unlock()
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err != nil {
			return nil, d.err
		}
	}
}

func (l *link) make(d *dial) {
	// A single-node client comes back together with the error of its first
	// dial and dials again when used; a Sentinel client does not come back.
	c, err := rueidis.NewClient(l.opt)
	l.mu.Lock()
	if c != nil && !l.closed {
		l.client, c, err = c, nil, nil
	}
	l.dial = nil
	l.mu.Unlock()
	if c != nil {
		c.Close()
	}
	d.err = err
	close(d.done)
}

// renew drops a client that is bound to the wrong node.
func (l *link) renew(old rueidis.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == old && !l.closed {
		l.client = nil
		l.wg.Go(old.Close)
	}
}

// drop drops whatever client there is.
func (l *link) drop() {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c != nil {
		l.renew(c)
	}
}

func (l *link) close() {
	l.mu.Lock()
	c := l.client
	l.client, l.closed = nil, true
	l.mu.Unlock()
	if c != nil {
		c.Close()
	}
	l.wg.Wait()
}

// errorCode returns the code an error answer of Redis starts with, which is what
// the protocol offers to branch on, or "" for any other error.
func errorCode(err error) string {
	if e, ok := rueidis.IsRedisErr(err); ok {
		return codeOf(e.Error())
	}
	return ""
}

// codeOf returns the code in front of the text of an error answer. The client
// takes the generic "ERR" away: text without a word of capitals has that one.
func codeOf(text string) string {
	code, _, _ := strings.Cut(text, " ")
	for _, c := range []byte(code) {
		if c < 'A' || c > 'Z' {
			return "ERR"
		}
	}
	return code
}
