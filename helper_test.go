package ssed_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ssed"
	"ssed/internal/redistest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"), // lives as long as the process
		goleak.IgnoreAnyFunction("github.com/bytedance/gopkg/util/gopool.(*worker).run.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"), // closes connections to nodes that left, 5 s later
	)
}

// Examples have no test to fail: what goes wrong in their helpers ends them.

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// startRedis runs a server of its own.
func startRedis() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "ssed-example-")
	must(err)
	server, err := redistest.Run(dir, 0)
	must(err)
	return server.URL(), func() {
		server.Stop()
		must(os.RemoveAll(dir))
	}
}

// run makes a gateway and runs it until stop.
func run(cfg ssed.Config) (gateway *ssed.Gateway, stop func()) {
	gateway, err := ssed.New(cfg)
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gateway.Run(ctx) }()
	return gateway, func() {
		cancel()
		must(<-ended)
	}
}

// awaitReady waits for the first tick of Redis.
func awaitReady(gateway *ssed.Gateway) {
	await(func() bool {
		ok, _ := gateway.Ready()
		return ok
	})
}

// await looks until is holds; a test that waits for ever ends by the timeout of all.
func await(is func() bool) {
	for !is() {
		time.Sleep(5 * time.Millisecond)
	}
}

// client reads a stream.
type client struct {
	*http.Response
	lines *bufio.Scanner
}

// open comes with the ID of the last event that the client got; "" for none.
func open(gateway *ssed.Gateway, channel, lastID string) *client {
	request, err := http.NewRequest(http.MethodGet, "http://"+gateway.Addrs()[0].String()+"/sse/connect?channel_id="+channel, nil)
	must(err)
	if lastID != "" {
		request.Header.Set("Last-Event-ID", lastID)
	}
	response, err := http.DefaultClient.Do(request)
	must(err)
	if response.StatusCode != http.StatusOK {
		panic(response.Status)
	}
	return &client{Response: response, lines: bufio.NewScanner(response.Body)}
}

// event is the next one; the data of a gap event is its reason.
func (c *client) event() (id, data string) {
	for c.lines.Scan() {
		name, value, _ := strings.Cut(c.lines.Text(), ": ")
		switch {
		case name == "id":
			id = value
		case name == "data":
			data = value
		case c.lines.Text() == "" && data != "":
			return id, data
		}
	}
	panic(fmt.Sprintf("the stream ended: %v", c.lines.Err()))
}

func (c *client) close() { _ = c.Body.Close() }
