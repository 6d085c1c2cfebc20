package rsub

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// ErrNotConnected is returned while there is no connection to Redis.
var ErrNotConnected = errors.New("rsub: not connected to Redis")

// clients makes the Redis client that everything shares, and makes another one
// when the old one leads to the wrong server.
type clients struct {
	option rueidis.ClientOption
	making chan struct{} // holds a token while nobody makes or replaces a client
	now    atomic.Pointer[rueidis.Client]
}

func newClients(option rueidis.ClientOption) *clients {
	c := &clients{option: option, making: make(chan struct{}, 1)}
	c.making <- struct{}{}
	return c
}

// current returns the client if there is one.
func (c *clients) current() (rueidis.Client, error) {
	if p := c.now.Load(); p != nil {
		return *p, nil
	}
	return nil, ErrNotConnected
}

// get returns the client and makes it if there is none.
func (c *clients) get(ctx context.Context) (rueidis.Client, error) {
	if client, err := c.current(); err == nil {
		return client, nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.making:
	}
	defer func() { c.making <- struct{}{} }()
	if client, err := c.current(); err == nil {
		return client, nil
	}
	client, err := rueidis.NewClient(c.option)
	if client == nil {
		return nil, err
	}
	// The client of a single node comes together with the error of its first
	// dial, and dials again when it is used.
	c.now.Store(&client)
	return client, nil
}

// discard closes the client if it is still in use, so that the next get finds
// the server anew: names are resolved, sentinels are asked.
func (c *clients) discard(client rueidis.Client) {
	<-c.making
	p := c.now.Load()
	mine := p != nil && *p == client
	if mine {
		c.now.Store(nil)
	}
	c.making <- struct{}{}
	if mine {
		client.Close()
	}
}

// close closes the client; the caller lets nobody get another.
func (c *clients) close() {
	if client, err := c.current(); err == nil {
		c.discard(client)
	}
}
