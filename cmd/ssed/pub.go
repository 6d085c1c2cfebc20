package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/admin"
	"ssed/internal/outbound"
	"ssed/internal/redisconn"
	"ssed/rsub"
	"ssed/sseproto"
)

// pubCommand is ssed pub.
type pubCommand struct {
	Channel string  `arg:"" help:"Where to publish."`
	Data    *string `arg:"" optional:"" help:"What to publish; - or nothing: standard input, without one line end at its end."`

	Lines bool   `env:"-" help:"Each line of standard input is a message, published as it comes."`
	Event string `env:"-" placeholder:"TYPE" help:"Type of the event."`
	ID    string `name:"id" env:"-" placeholder:"ID" help:"An ID of your own, which clients get behind that of ssed."`

	AdminURL       string `name:"admin-url" default:"http://127.0.0.1:9090" placeholder:"URL" help:"Admin listener that takes the message, unless there is a Redis URL."`
	AdminToken     string `placeholder:"TEXT" help:"What the admin listener demands. Give it by environment or file."`
	AdminTokenFile string `placeholder:"PATH" help:"File of tokens, as for ssed serve: the first one that may publish is sent."`
	Redirects      bool   `name:"follow-redirects" env:"-" help:"Go where an answer of the admin listener redirects, with the message. Default: an error that names the place."`
	RedisURL       string `name:"redis-url" placeholder:"URL" help:"Publish on this Redis instead."`
	RedisURLFile   string `name:"redis-url-file" placeholder:"PATH" help:"File that holds the URL."`
	RedisCA        string `name:"redis-ca" placeholder:"PATH" help:"As for ssed serve."`
	RedisCert      string `placeholder:"PATH" help:"As for ssed serve."`
	RedisKey       string `placeholder:"PATH" help:"As for ssed serve."`
	Feed           string `default:"pattern" placeholder:"pattern|sharded" help:"As the instances have it, for what is published on Redis."`
	StreamPrefix   string `default:"sse:stream:" placeholder:"TEXT" help:"As the instances have it, for --feed=sharded on Redis."`
	Envelope       string `default:"off" placeholder:"off|json" help:"As the instances have it: with json, --event and --id can be published on Redis."`

	ConfigFile string `name:"config" group:"file" placeholder:"PATH" help:"YAML file of \"ssed serve\", of which the values of these flags are taken."`

	envelopes bool           // Envelope, checked
	sharded   bool           // Feed, checked
	keys      redisconn.Keys // of the way by Redis
}

// Help implements kong.HelpProvider.
func (pubCommand) Help() string {
	return `Prints the ID of each message on a line, or with Redis, which does not know it, how many subscriptions got the message. When that is none, the message is gone and the exit code 1.`
}

// outgoing takes a message and returns what to print for it.
type outgoing func(ctx context.Context, m sseproto.Message) (receipt string, err error)

var errNobody = errors.New("no instance was linked to Redis: the message is gone")

func (c *pubCommand) run(inv *invocation, stdin io.Reader, stdout, stderr io.Writer) int {
	send, closeSender, err := c.sender(inv)
	if err != nil {
		return usageError(stderr, inv.located(err))
	}
	defer closeSender()
	publish := func(data string) error {
		receipt, err := send(context.Background(), sseproto.Message{Event: c.Event, ID: c.ID, Data: data})
		if receipt != "" {
			_, printErr := fmt.Fprintln(stdout, receipt)
			err = errors.Join(err, printErr)
		}
		return err
	}
	// Signals end the process as they do by default: nothing else ends the read of a terminal.
	if err := c.messages(stdin, publish); err != nil {
		return failed(stderr, err)
	}
	return exitOK
}

func (c *pubCommand) fromInput() bool { return c.Data == nil || *c.Data == "-" }

// maxInput is the largest --max-message-bytes.
const maxInput = 256 << 20

var (
	errTooLong = fmt.Errorf("a message is longer than %d bytes", maxInput)
	errNoInput = errors.New("standard input is empty: nothing is published (an empty message: ssed pub CHANNEL '')")
)

// messages calls publish for the argument, for standard input, or for each of its lines.
func (c *pubCommand) messages(stdin io.Reader, publish func(string) error) error {
	if !c.fromInput() {
		return publish(*c.Data)
	}
	if !c.Lines {
		data, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
		switch {
		case err != nil:
			return err
		case len(data) > maxInput:
			return errTooLong
		case len(data) == 0: // a command in front of the pipe has failed
			return errNoInput
		}
		return publish(withoutLineEnd(string(data)))
	}
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, maxInput)
	for lines.Scan() {
		if err := publish(lines.Text()); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return errTooLong
	}
	return lines.Err()
}

// withoutLineEnd leaves out the one line end that echo and editors put behind a text.
func withoutLineEnd(text string) string {
	if line, found := strings.CutSuffix(text, "\r\n"); found {
		return line
	}
	return strings.TrimSuffix(text, "\n")
}

// sender checks everything and chooses the way.
func (c *pubCommand) sender(inv *invocation) (send outgoing, closeSender func(), err error) {
	var p problems
	if err := inv.complete(c.ConfigFile); err != nil {
		p = append(p, err)
	}
	c.check(&p)
	var option rueidis.ClientOption
	direct := false
	// Who names the admin listener here means it, whatever Redis the environment has.
	if inv.origin("admin-url") != fromFlag || inv.origin("redis-url") == fromFlag || inv.origin("redis-url-file") == fromFlag {
		option, direct = p.redis(c.redis())
	}
	var base *url.URL
	var token string
	if !direct { // the file of the token may be for the service alone to read
		base = p.httpURL("--admin-url", c.AdminURL)
		token = p.tokenToPublish(c.AdminToken, c.AdminTokenFile)
	}
	c.envelopes = p.choice("--envelope", c.Envelope, "off", "json") == "json"
	c.sharded = p.choice("--feed", c.Feed, "pattern", "sharded") == "sharded"
	c.keys = redisconn.KeysOf(option, p.notEmpty("--stream-prefix", c.StreamPrefix), redisconn.Partition{})
	if direct && !c.envelopes && c.Event+c.ID != "" {
		p.add("--envelope", "--event and --id need json here and on the instances: without it Redis carries data alone")
	}
	switch {
	case len(p) > 0:
		return nil, nil, errors.Join(p...)
	case direct:
		send, closeSender = c.byRedis(option)
	default:
		send, closeSender = c.byAdmin(base, token)
	}
	return send, closeSender, nil
}

// tokenToPublish takes the first one of the file that may.
func (p *problems) tokenToPublish(text, path string) string {
	tokens := p.adminTokens(text, path)
	token := admin.TokenFor(tokens, admin.RolePublish)
	if len(tokens) > 0 && token == "" {
		p.add("--admin-token-file", "no token in it is for publishing")
	}
	return token
}

func (c *pubCommand) check(p *problems) {
	switch {
	case c.Channel == "" || len(c.Channel) > 255:
		p.add("CHANNEL", "%.50q is not 1 to 255 bytes", c.Channel)
	case rsub.Reserved(c.Channel):
		p.add("CHANNEL", "channels that start with __ are never delivered")
	}
	if c.Lines && !c.fromInput() {
		p.add("--lines", "it is for standard input, and there is a message already")
	}
	if err := (sseproto.Message{Event: c.Event}).Check(); err != nil {
		p.add("--event", "%w", err)
	}
	if err := (sseproto.Message{ID: c.ID}).Check(); err != nil {
		p.add("--id", "%w", err)
	}
}

// pubTimeout bounds one message: the admin listener takes 3 s at most for its own part.
const pubTimeout = 10 * time.Second

// byRedis connects at the first message.
func (c *pubCommand) byRedis(option rueidis.ClientOption) (send outgoing, closeSender func()) {
	lazy := redisconn.New(redisconn.Options(option), c.keys.Slot)
	send = func(ctx context.Context, m sseproto.Message) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, pubTimeout)
		defer cancel()
		client, err := lazy.Get(ctx)
		if err != nil {
			return "", err
		}
		payload := m.Data
		if c.envelopes {
			payload = string(sseproto.AppendPayload(nil, m))
		}
		n, err := client.Do(ctx, c.command(client.B(), payload)).AsInt64()
		if err != nil {
			return "", err
		}
		if n == 0 {
			err = errNobody
		}
		return receivers(n), err
	}
	return send, lazy.Close
}

// command publishes on Redis as the feed of the instances wants it.
func (c *pubCommand) command(b rueidis.Builder, payload string) rueidis.Completed {
	if c.sharded {
		return b.Spublish().Channel(c.keys.Messages).Message(c.Channel + "\n" + payload).Build()
	}
	return b.Publish().Channel(c.Channel).Message(payload).Build()
}

func receivers(n int64) string { return fmt.Sprintf("receivers: %d", n) }

// byAdmin uses POST /publish.
func (c *pubCommand) byAdmin(base *url.URL, token string) (send outgoing, closeSender func()) {
	client := &http.Client{Timeout: pubTimeout, Transport: outbound.Transport(pubTimeout)}
	if !c.Redirects { // a redirect would carry the message to whom the answer names
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	target := base.JoinPath("publish")
	query := url.Values{"channel_id": {c.Channel}}
	for name, value := range map[string]string{"event": c.Event, "id": c.ID} {
		if value != "" {
			query.Set(name, value)
		}
	}
	target.RawQuery = query.Encode()
	send = func(ctx context.Context, m sseproto.Message) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(m.Data))
		if err != nil {
			return "", err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", fmt.Errorf("--admin-url: %w", outbound.WithoutURL(err))
		}
		defer resp.Body.Close()
		return readReceipt(resp)
	}
	return send, client.CloseIdleConnections
}

// maxReceiptBytes is far more than an answer of the admin listener to a message.
const maxReceiptBytes = 16 << 10

func readReceipt(resp *http.Response) (string, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReceiptBytes))
	if err != nil {
		return "", err
	}
	var answer struct {
		ID        string
		Receivers *int64
		Error     string
	}
	decodeErr := json.Unmarshal(bytes.TrimSpace(body), &answer)
	switch {
	case resp.StatusCode/100 == 3 && resp.Header.Get("Location") != "":
		return "", fmt.Errorf("the answer is %s, to %s: nothing is published; name that server by --admin-url, or give --follow-redirects", resp.Status, place(resp))
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted:
		return "", fmt.Errorf("the admin listener answered %s: %s", resp.Status, answer.Error)
	case decodeErr != nil:
		return "", errors.New("the answer is not that of an admin listener: is --admin-url right?")
	case answer.Receivers != nil && *answer.Receivers == 0:
		return receivers(0), errNobody
	case answer.ID != "" || answer.Receivers == nil:
		return visible(answer.ID), nil // it may not be an admin listener of ssed
	}
	return receivers(*answer.Receivers), nil
}

// place is where a redirect points, without what may be a secret.
func place(resp *http.Response) string {
	u, err := resp.Location()
	if err != nil {
		return "no URL"
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}
