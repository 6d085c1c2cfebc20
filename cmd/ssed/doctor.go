package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ssed"
	"ssed/engine"
	"ssed/internal/admin"
	"ssed/internal/doctor"
	"ssed/internal/outbound"
	"ssed/rsub"
	"ssed/sseproto"
)

// doctorCommand is ssed doctor.
type doctorCommand struct {
	flags

	PublicURL    string `name:"public-url" aliases:"url" placeholder:"URL" help:"Try the proxy: open a stream at this URL as a client does, and publish messages for it. Without a path: /sse/connect."`
	AdminURL     string `name:"admin-url" placeholder:"URL" help:"Admin listener of an instance. doctor asks it whether the streams of clients that have left are closed. Default: that of --admin, if somebody listens there."`
	ProbeTime    string `default:"0" placeholder:"TIME" help:"Leave that stream quiet for this long, to find timeouts that are too short."`
	ProbeChannel string `placeholder:"NAME" help:"Channel for these messages. Default: a random one that --patterns match."`
	TokenFile    string `placeholder:"PATH" help:"File with a token for that stream, sent as Authorization: Bearer. Or put the token itself into SSED_TOKEN."`
	JSON         bool   `name:"json" env:"-" help:"Print one JSON object."`
}

// Help implements kong.HelpProvider.
func (doctorCommand) Help() string {
	return `Give it the flags, the environment and the file of "ssed serve". It checks the machine, Redis and the proxy that ssed would use. Each line says ok, warn, fail or skip, and what to type. The exit code is 1 when something failed. Run it as the user of the service, with its limits.`
}

// diagnosis is what --json prints.
type diagnosis struct {
	OK     bool            `json:"ok"`
	Checks []doctor.Result `json:"checks"`
}

func (c *doctorCommand) run(inv *invocation, stdout, stderr io.Writer) int {
	cfg, done, err := c.config(inv)
	if err != nil {
		return usageError(stderr, inv.command, inv.located(err))
	}
	defer done()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	all := diagnosis{OK: true}
	counts := map[doctor.Status]int{}
	doctor.Run(ctx, cfg, func(r doctor.Result) {
		all.Checks = append(all.Checks, r)
		counts[r.Status]++
		if !c.JSON {
			printResult(stdout, r)
		}
	})
	all.OK = counts[doctor.Fail] == 0 && ctx.Err() == nil
	if c.JSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		if err := out.Encode(all); err != nil {
			return failed(stderr, err)
		}
	} else {
		fmt.Fprintf(stdout, "\n%d ok, %d to think about, %d failed, %d not known\n",
			counts[doctor.OK], counts[doctor.Warn], counts[doctor.Fail], counts[doctor.Skip])
	}
	if !all.OK {
		return exitFailed
	}
	return exitOK
}

func printResult(w io.Writer, r doctor.Result) {
	fmt.Fprintf(w, "%-5s %s: %s\n", r.Status, r.Check, visible(r.Text))
	if r.Fix != "" {
		fmt.Fprintf(w, "      fix: %s\n", visible(r.Fix))
	}
}

// config is what to look at. done gives back what publishes.
func (c *doctorCommand) config(inv *invocation) (cfg doctor.Config, done func(), err error) {
	var p problems
	if err := inv.complete(c.ConfigFile); err != nil {
		p = append(p, err)
	}
	// More connections than files is not a bad value here but what is to be found.
	connections := p.optionalCount("--max-connections", c.MaxConnections)
	c.MaxConnections = ""
	serve, err := c.flags.config()
	if err != nil {
		p = append(p, err)
	}
	cfg = doctor.Config{
		MaxConnections: connections,
		ReservedFiles:  engine.ReservedFiles,
		Heartbeat:      serve.gateway.Streams.Heartbeat,
		HeartbeatEvent: serve.gateway.Streams.HeartbeatEvent,
		PeerTimeout:    serve.gateway.Streams.PeerTimeout,
		RingBytes:      serve.gateway.Streams.RingBytes,
		TrustedProxies: serve.gateway.Streams.TrustedProxies,
	}
	done = func() {}
	if r := serve.gateway.Redis; r != nil {
		feed := &serve.gateway.Feed
		cfg.Redis = &doctor.Redis{Client: *r, Patterns: feed.Patterns, Prefix: feed.Prefix, History: serve.gateway.History != nil}
		cfg.Redis.Inbox, cfg.Redis.Sharded, cfg.Redis.BatchChannel = feed.Inbox, feed.Sharded, feed.BatchChannel
		cfg.Redis.Partitions = feed.Partitions
		if cfg.Redis.History {
			cfg.Redis.Window = serve.gateway.HistoryWindow()
			cfg.Redis.WindowOf = func(channel string) time.Duration { return serve.gateway.PolicyOf(channel).Window }
		}
		cfg.Redis.Fingerprint, cfg.Redis.Rules = rsub.Fingerprint(feed.Patterns, rsub.Rules{
			Envelope: feed.Envelope, Sharded: feed.Sharded, BatchChannel: feed.BatchChannel, Partitions: feed.Partitions,
		})
	}
	pause := p.duration("--probe-time", c.ProbeTime, 0)
	if c.PublicURL != "" {
		cfg.Proxy, done = c.probe(&p, &serve)
		cfg.Proxy.Time = pause
	}
	if len(p) > 0 {
		done()
	}
	return cfg, done, errors.Join(p...)
}

// probe is how to try the proxy: messages go the way of backends.
func (c *doctorCommand) probe(p *problems, serve *config) (probe *doctor.Proxy, done func()) {
	channel := c.ProbeChannel
	if channel == "" {
		patterns := []string{"*"}
		if serve.gateway.Redis != nil {
			patterns = serve.gateway.Feed.Patterns
		}
		if channel = channelFor(patterns); channel == "" {
			p.add("--probe-channel", "must be given: no name could be made that --patterns match")
		}
	}
	pub := pubCommand{Channel: channel}
	send, done := pub.byAdmin(adminURL(serve.admin), admin.TokenFor(serve.adminTokens, admin.RolePublish))
	if serve.gateway.Redis != nil {
		send, done = pub.byRedis(*serve.gateway.Redis)
	} else if serve.admin == "" {
		p.add("--admin", "messages are published by it in embedded mode, and it is off")
	}
	return &doctor.Proxy{
		URL:        p.streamURL("--public-url", c.PublicURL, nil, nil),
		Token:      p.clientToken("--token-file", c.TokenFile),
		Channel:    channel,
		Streams:    c.counter(p, serve, channel),
		StartBlock: serve.gateway.Streams.StartID == ssed.StartIDAuto,
		MaxAge:     serve.gateway.Streams.MaxAge,
		Publish: func(ctx context.Context, data string) error {
			_, err := send(ctx, []sseproto.Message{{Data: data}})
			return err
		},
	}, done
}

// counter asks an admin listener for the open streams of a channel, at all instances. Nil:
// there is nobody to ask.
func (c *doctorCommand) counter(p *problems, serve *config, channel string) func(context.Context) (int, error) {
	var base *url.URL
	switch {
	case c.AdminURL != "":
		base = p.httpURL("--admin-url", c.AdminURL)
	case serve.admin != "":
		base = adminURL(serve.admin)
	default:
		return nil
	}
	target := base.JoinPath("api", "channels", url.PathEscape(channel)).String()
	token := admin.TokenFor(serve.adminTokens, admin.RoleRead)
	client := &http.Client{Transport: outbound.Transport(pubTimeout)}
	return func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return 0, err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, fmt.Errorf("--admin-url: %w", outbound.WithoutURL(err))
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("--admin-url: the answer is %s", resp.Status)
		}
		var found struct {
			Subscribers int
			Fleet       *struct{ Subscribers int }
		}
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&found); err != nil {
			return 0, fmt.Errorf("--admin-url: %w", err)
		}
		if found.Fleet != nil {
			return found.Fleet.Subscribers, nil
		}
		return found.Subscribers, nil
	}
}

// channelFor makes a name that one of the patterns matches; "" when that fails. Only
// patterns that Redis itself would match with it count.
func channelFor(patterns []string) string {
	name := "ssed-doctor-" + strings.ToLower(rand.Text()[:8])
	for _, pattern := range patterns {
		channel := strings.NewReplacer("*", name, "?", "x").Replace(pattern)
		if sseproto.MatchGlob(pattern, channel) && channel != pattern && len(channel) <= sseproto.MaxChannelBytes {
			return channel
		}
	}
	return ""
}

// adminURL is how this machine reaches the listener.
func adminURL(listen string) *url.URL {
	host, port, _ := net.SplitHostPort(listen) // checked by config
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}
}
