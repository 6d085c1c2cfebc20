package ssed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/fleet"
	"ssed/internal/redistest"
	"ssed/rsub"
	"ssed/sseproto"
)

// loopback is a Config that listens on a free port, and drains at once.
func loopback() ssed.Config {
	return ssed.Config{Listen: []string{"127.0.0.1:0"}, Streams: ssed.StreamConfig{Drain: time.Nanosecond}}
}

func onRedis(t *testing.T, server *redistest.Server) ssed.Config {
	t.Helper()
	option, err := rueidis.ParseURL(server.URL())
	require.NoError(t, err)
	cfg := loopback()
	cfg.Redis, cfg.History = &option, &ssed.HistoryConfig{}
	return cfg
}

// twoOnRedis serves two gateways on one server, and returns a client of it.
func twoOnRedis(t *testing.T, server *redistest.Server, change func(*ssed.Config)) (gateways []*ssed.Gateway, redis rueidis.Client) {
	t.Helper()
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, ForceSingleClient: true, DisableCache: true})
	require.NoError(t, err)
	t.Cleanup(redis.Close)
	for range 2 {
		cfg := onRedis(t, server)
		change(&cfg)
		gateway, _ := serve(t, cfg)
		awaitReady(gateway)
		gateways = append(gateways, gateway)
	}
	return gateways, redis
}

// serve runs a gateway to the end of the test, or until stop.
func serve(t *testing.T, cfg ssed.Config) (gateway *ssed.Gateway, stop func() error) {
	t.Helper()
	gateway, err := ssed.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	var runErr error
	go func() {
		defer close(ended)
		runErr = gateway.Run(ctx)
	}()
	stopped := false
	stop = func() error {
		stopped = true
		cancel()
		<-ended
		return runErr
	}
	t.Cleanup(func() {
		if !stopped {
			require.NoError(t, stop())
		}
	})
	return gateway, stop
}

func TestProblemsAreAllNamedByField(t *testing.T) {
	client := rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}, AlwaysRESP2: true}
	cfg := ssed.Config{
		Listen: []string{"8080"},
		Redis:  &client,
		Feed: ssed.FeedConfig{
			Patterns: []string{"__x"}, Prefix: "a b", Instance: "two words", Subscriptions: 3,
			TickInterval: time.Microsecond, Inbox: "two words",
		},
		History: &ssed.HistoryConfig{
			MaxLen: -1, TTL: time.Millisecond, BatchSize: 20_000, FlushInterval: time.Microsecond,
			GapWait: time.Millisecond, Wait: -1, Readers: -1,
		},
		Streams: ssed.StreamConfig{
			Shards: -1, RingBytes: 1, MaxMessageBytes: -1, MaxConnections: -1, PeerTimeout: 1, HandshakeTimeout: -1,
			AuthTimeout: -1, MaxAge: 1, MaxChannels: -1, MaxHeadBytes: -1, BroadcastChannel: "__all", Heartbeat: 1, HeartbeatEvent: "gap",
			RetryMin: 1, Drain: -1, CORSOrigins: []string{"x"}, ProxyProtocol: true, ConnectRate: -1, MaxPerAddress: -1,
			SocketMode: 0o1777,
		},
	}
	_, err := ssed.New(cfg)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	for _, field := range []string{
		"Listen", "Redis", "Feed.Patterns", "Feed.Prefix", "Feed.Instance", "Feed.Subscriptions", "Feed.TickInterval", "Feed.Inbox",
		"History.MaxLen", "History.TTL", "History.BatchSize", "History.FlushInterval", "History.GapWait", "History.Wait", "History.Readers",
		"Streams.Shards", "Streams.RingBytes", "Streams.MaxMessageBytes", "Streams.MaxConnections", "Streams.PeerTimeout",
		"Streams.HandshakeTimeout", "Streams.AuthTimeout", "Streams.MaxAge", "Streams.MaxChannels", "Streams.MaxHeadBytes", "Streams.BroadcastChannel",
		"Streams.Heartbeat", "Streams.HeartbeatEvent", "Streams.RetryMin", "Streams.Drain", "Streams.CORSOrigins",
		"Streams.ProxyProtocol", "Streams.ConnectRate", "Streams.MaxPerAddress", "Streams.SocketMode",
	} {
		said := 0
		for _, line := range lines {
			if strings.HasPrefix(line, "ssed: "+field+": ") {
				said++
			}
		}
		require.Equal(t, 1, said, "%s in:\n%v", field, err)
	}
	require.Len(t, lines, 35, "and nothing else")
	require.EqualError(t, ssed.Config{}.Validate(), "ssed: Listen: no address given")
	// What concerns Redis is checked without it too.
	require.EqualError(t, ssed.Config{Listen: []string{":0"}, Feed: ssed.FeedConfig{Inbox: "in"}}.Validate(),
		"ssed: Feed.Inbox: it needs a history: entries are kept until the history has them")
}

func TestCloseGivesTheListenersBack(t *testing.T) {
	gateway, err := ssed.New(loopback())
	require.NoError(t, err)
	address := gateway.Addrs()[0].String()
	_, err = net.Listen("tcp", address)
	require.Error(t, err, "it is taken")
	gateway.Close()
	again, err := net.Listen("tcp", address)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	require.Error(t, gateway.Run(t.Context()))
	gateway.Close()

	_, stop := serve(t, loopback())
	require.NoError(t, stop())
}

func TestRefusedMessagesAreNotSent(t *testing.T) {
	server := redistest.Start(t)
	long := strings.Repeat("x", 65)
	for _, withRedis := range []bool{false, true} {
		t.Run(fmt.Sprintf("redis=%v", withRedis), func(t *testing.T) {
			cfg := loopback()
			if withRedis {
				cfg = onRedis(t, server)
				cfg.Feed.Patterns = []string{"a*"}
			}
			cfg.Streams.MaxMessageBytes = 64
			gateway, _ := serve(t, cfg)
			awaitReady(gateway)
			f := func(want error, channel string, m ssed.Message) {
				t.Helper()
				_, err := gateway.Publish(t.Context(), channel, m)
				require.ErrorIs(t, err, want)
			}
			f(ssed.ErrChannel, "", ssed.Message{})
			f(ssed.ErrChannel, "a\x00", ssed.Message{})
			f(ssed.ErrChannel, strings.Repeat("a", 256), ssed.Message{})
			f(ssed.ErrReserved, "__a", ssed.Message{})
			f(ssed.ErrTooLarge, "a", ssed.Message{Data: long})
			f(sseproto.ErrBadEventType, "a", ssed.Message{Event: "a\nb"})
			if withRedis {
				f(ssed.ErrNobody, "b", ssed.Message{Data: "no pattern matches"})
			}
			require.Zero(t, gateway.Stats().Messages)

			// What is refused does not stop what comes behind it.
			results := gateway.PublishBatch(t.Context(), []ssed.OutMessage{
				{Channel: "a", Message: ssed.Message{Data: "1"}},
				{Channel: "a", Message: ssed.Message{Data: long}},
				{Channel: "a", Message: ssed.Message{Data: "2"}},
			})
			require.NoError(t, results[0].Err)
			require.ErrorIs(t, results[1].Err, ssed.ErrTooLarge)
			require.NoError(t, results[2].Err)
			await(func() bool { return gateway.Stats().Messages == 2 })
		})
	}
}

func TestTypesAreCarriedOverRedis(t *testing.T) {
	t.Run("in envelopes", func(t *testing.T) { tryTypes(t, true) })
	t.Run("marked", func(t *testing.T) { tryTypes(t, false) })
}

func tryTypes(t *testing.T, envelope bool) {
	cfg := onRedis(t, redistest.Start(t))
	cfg.Feed.Envelope = envelope
	gateway, _ := serve(t, cfg)
	awaitReady(gateway)
	stream := open(gateway, "a", "")
	defer stream.close()
	_, err := gateway.Publish(t.Context(), "a", ssed.Message{Event: "order", Data: "paid"})
	require.NoError(t, err)
	for stream.lines.Scan() && !strings.HasPrefix(stream.lines.Text(), "event") {
	}
	require.Equal(t, "event: order", stream.lines.Text())
}

// The order of stopping: nothing that was published is missing in the history.
func TestRunWritesTheHistoryToItsEnd(t *testing.T) {
	server := redistest.Start(t)
	cfg := onRedis(t, server)
	cfg.Feed.TickInterval = 2 * time.Second // what is published below is not committed by a tick that was due
	cfg.Feed.ProbeTimeout = 10 * time.Second
	gateway, stop := serve(t, cfg)
	awaitReady(gateway)
	await(func() bool { return gateway.Stats().Writer })
	batch := make([]ssed.OutMessage, 50)
	for i := range batch {
		batch[i] = ssed.OutMessage{Channel: "a", Message: ssed.Message{Data: fmt.Sprint(i)}}
	}
	for _, result := range gateway.PublishBatch(t.Context(), batch) {
		require.NoError(t, result.Err)
	}
	await(func() bool { return gateway.Stats().Messages == 50 })
	require.NoError(t, stop())
	length, err := server.Do("XLEN", "sse:stream:a")
	require.NoError(t, err)
	require.EqualValues(t, 50, length)
	ok, reason := gateway.Ready()
	require.False(t, ok)
	require.Equal(t, "draining", reason)
}

func TestDrainSendsTheClientsAwayAndEnds(t *testing.T) {
	gateway, stop := serve(t, loopback())
	stream := open(gateway, "a", "")
	defer stream.close()
	require.NoError(t, stop())
	for stream.lines.Scan() {
	}
	stats := gateway.Stats()
	require.EqualValues(t, 1, stats.Closed["drain"], "%v", stats.Closed)
	require.Zero(t, stats.Streams)
}

func TestOtherPatternsOnThePrefixEndRun(t *testing.T) {
	server := redistest.Start(t)
	first, _ := serve(t, onRedis(t, server))
	awaitReady(first)
	cfg := onRedis(t, server)
	cfg.Feed.Patterns = []string{"other:*"}
	second, err := ssed.New(cfg)
	require.NoError(t, err)
	require.ErrorIs(t, second.Run(t.Context()), rsub.ErrConfigMismatch)
}

// Who comes later ends, with what is wrong in its error.
func TestGatewayThatWouldHarmOthersEndsRun(t *testing.T) {
	f := func(name, text string, want error, change func(*ssed.Config)) {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			cfg := onRedis(t, server)
			cfg.Feed.Instance = "one"
			first, _ := serve(t, cfg)
			awaitReady(first)
			require.Eventually(t, func() bool { v, _ := server.Do("EXISTS", "{sse:stream:}:owner:one"); return v == int64(1) }, time.Minute, time.Millisecond)
			cfg = onRedis(t, server)
			cfg.Feed.Instance = "two"
			change(&cfg)
			second, err := ssed.New(cfg)
			require.NoError(t, err)
			err = second.Run(t.Context())
			require.ErrorIs(t, err, want)
			require.ErrorContains(t, err, text)
			ok, _ := first.Ready()
			require.True(t, ok)
		})
	}
	f("the same name", `"one" belongs to process`, fleet.ErrInstanceTaken, func(cfg *ssed.Config) { cfg.Feed.Instance = "one" })
	f("another limit", "max message bytes is 5 here and 1048576 on one", fleet.ErrSettings, func(cfg *ssed.Config) { cfg.Streams.MaxMessageBytes = 5 })
	f("a longer prefix", "sse:stream:x", fleet.ErrNested, func(cfg *ssed.Config) { cfg.Feed.Prefix = "sse:stream:x" })
}

// A gateway without its history, or with an inbox that stands still, serves, and says so.
func TestWhatFailsBesideTheStreamsIsTold(t *testing.T) {
	t.Parallel()
	f := func(key, text string) {
		t.Run(key, func(t *testing.T) {
			server := redistest.Start(t)
			_, err := server.Do("SADD", key, "of another type")
			require.NoError(t, err)
			cfg := onRedis(t, server)
			cfg.Feed.Inbox = "sse:inbox"
			gateway, _ := serve(t, cfg)
			require.Eventually(t, func() bool {
				ok, reason := gateway.Ready()
				return ok && strings.Contains(reason, text) && strings.Contains(reason, "WRONGTYPE")
			}, time.Minute, time.Millisecond)
			_, err = server.Do("DEL", key)
			require.NoError(t, err)
			require.Eventually(t, func() bool { ok, reason := gateway.Ready(); return ok && reason == "" }, time.Minute, time.Millisecond)
		})
	}
	f("{sse:stream:}:writer", "the history is not written: one of the keys {sse:stream:}:clock, {sse:stream:}:writer")
	f("{sse:stream:}:gaps", "the history is not written: one of the keys ")
	f("{sse:stream:}:inbox", "the inbox stands still: ")
	f("sse:inbox", "the inbox stands still: ")
}

// An instance lists the others: a gateway without the program is among them.
func TestOtherInstancesAreToldOfTheGateway(t *testing.T) {
	server := redistest.Start(t)
	cfg := onRedis(t, server)
	cfg.Feed.Instance = "embedded-one"
	one, _ := serve(t, cfg)
	other, _ := serve(t, onRedis(t, server))
	awaitReady(one)
	awaitReady(other)
	stream := open(one, "a", "")
	defer stream.close()
	var told struct {
		Instance string
		Streams  int
	}
	await(func() bool {
		members, err := other.Parts().Fleet.Members(t.Context())
		if err != nil {
			return false
		}
		for _, m := range members {
			if m.Name == "embedded-one" && json.Unmarshal(m.Report, &told) == nil && told.Streams == 1 {
				return true
			}
		}
		return false
	})
	require.Equal(t, "embedded-one", told.Instance)
	found, err := other.Parts().Fleet.Subscribers(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, 2, found.Asked)
}
