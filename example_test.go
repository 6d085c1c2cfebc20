package ssed_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed"
)

// A gateway without Redis: what it delivers comes from Publish.
func Example() {
	gateway, err := ssed.New(ssed.Config{Listen: []string{"127.0.0.1:0"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- gateway.Run(ctx) }()

	// What a page does with new EventSource("/sse/connect?channel_id=news"):
	stream, err := http.Get("http://" + gateway.Addrs()[0].String() + "/sse/connect?channel_id=news")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err = gateway.Publish(ctx, "news", ssed.Message{Event: "greeting", Data: "hello"}); err != nil {
		fmt.Println(err)
		return
	}
	for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ": "); name == "event" || name == "data" {
			fmt.Println(name, "is", value)
		}
		if strings.HasPrefix(lines.Text(), "data") {
			break
		}
	}

	stream.Body.Close() // else Run would send it away within ten seconds
	stop()
	fmt.Println("ended:", <-ended)
	// Output:
	// event is greeting
	// data is hello
	// ended: <nil>
}

// Two gateways on one Redis: a message that one of them publishes comes to the clients of
// both, with the same ID. A client that comes back to the other one misses nothing.
func Example_redis() {
	url, stopRedis := startRedis()
	defer stopRedis()
	option, err := rueidis.ParseURL(url)
	if err != nil {
		fmt.Println(err)
		return
	}
	one, stopOne := run(ssed.Config{
		Listen:  []string{"127.0.0.1:0"},
		Redis:   &option,
		History: &ssed.HistoryConfig{},
	})
	defer stopOne()
	two, stopTwo := run(ssed.Config{
		Listen:  []string{"127.0.0.1:0"},
		Redis:   &option,
		History: &ssed.HistoryConfig{},
	})
	defer stopTwo()
	awaitReady(one)
	awaitReady(two)

	ctx := context.Background()
	client := open(one, "news", "")
	if _, err = two.Publish(ctx, "news", ssed.Message{Data: "published on two, read on one"}); err != nil {
		fmt.Println(err)
		return
	}
	last, data := client.event()
	fmt.Println(data)

	client.close()
	if _, err = one.Publish(ctx, "news", ssed.Message{Data: "published while the client was away"}); err != nil {
		fmt.Println(err)
		return
	}
	client = open(two, "news", last)
	defer client.close()
	_, data = client.event()
	fmt.Println(data)
	// Output:
	// published on two, read on one
	// published while the client was away
}

// With Redis the position of a message is known once it has come back from there.
func ExampleGateway_Publish() {
	gateway, stop := run(ssed.Config{Listen: []string{"127.0.0.1:0"}})
	defer stop()
	ctx := context.Background()

	first, _ := gateway.Publish(ctx, "news", ssed.Message{Data: "one"})
	second, _ := gateway.Publish(ctx, "weather", ssed.Message{Data: "two"})
	fmt.Println("IDs ascend over all channels:", first.Less(second))

	_, err := gateway.Publish(ctx, "__keyspace@0__:x", ssed.Message{Data: "three"})
	fmt.Println(errors.Is(err, ssed.ErrReserved))
	// Output:
	// IDs ascend over all channels: true
	// true
}

// tickets lets clients with the right ticket read, for an hour, the channels of their team.
type tickets map[string]string // ticket → team

func (t tickets) Authorize(_ context.Context, r *ssed.AuthRequest) (ssed.Grant, error) {
	team, ok := t[string(r.Request.Header("X-Ticket"))]
	if !ok {
		return ssed.Grant{}, &ssed.Denial{Status: http.StatusUnauthorized, Body: "no valid ticket"}
	}
	grant := ssed.Grant{Expires: time.Now().Add(time.Hour)}
	for _, channel := range r.Channels {
		if strings.HasPrefix(channel, team+":") {
			grant.Channels = append(grant.Channels, channel)
		}
	}
	if grant.Channels == nil {
		return ssed.Grant{}, &ssed.Denial{Status: http.StatusForbidden, Body: "not your team"}
	}
	return grant, nil
}

// A custom authoriser decides who may open a stream, and narrows it.
func ExampleAuthorizer() {
	gateway, stop := run(ssed.Config{
		Listen: []string{"127.0.0.1:0"},
		Auth:   tickets{"abc": "red", "def": "blue"},
	})
	defer stop()

	for _, ticket := range []string{"abc", "def", "xyz"} {
		request, err := http.NewRequest(http.MethodGet, "http://"+gateway.Addrs()[0].String()+"/sse/connect?channel_id=red:news", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		request.Header.Set("X-Ticket", ticket)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(ticket, answer.StatusCode)
		answer.Body.Close()
	}
	// Output:
	// abc 200
	// def 403
	// xyz 401
}
