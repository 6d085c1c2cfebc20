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
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/rueidis"

	"ssed/internal/admin"
	"ssed/internal/outbound"
	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// pubCommand is ssed pub.
type pubCommand struct {
	Channel string  `arg:"" help:"Where to publish."`
	Data    *string `arg:"" optional:"" help:"What to publish. - or nothing: standard input, without the line end at its end."`

	Lines bool   `env:"-" help:"Publish each line of standard input as a message, as it comes. Lines that are there already go together: by POST /api/batch, or on Redis with --batch-channel."`
	Event string `env:"-" placeholder:"TYPE" help:"Type of the event. It needs no --envelope on the instances."`
	ID    string `name:"id" env:"-" placeholder:"ID" help:"An ID of your own, which clients get after that of ssed."`

	AdminURL       string `name:"admin-url" default:"http://127.0.0.1:9090" placeholder:"URL" help:"Publish by this admin listener, unless there is a Redis URL."`
	AdminToken     string `placeholder:"TEXT" help:"Token for the admin listener. Give it by environment or file."`
	AdminTokenFile string `placeholder:"PATH" help:"File of tokens, as for ssed serve. The first one that may publish is sent."`
	Redirects      bool   `name:"follow-redirects" env:"-" help:"Follow redirects of the admin listener, with the message. Default: an error that names the place."`
	RedisURL       string `name:"redis-url" placeholder:"URL" help:"Publish on this Redis instead."`
	RedisURLFile   string `name:"redis-url-file" placeholder:"PATH" help:"File that holds the URL."`
	RedisCA        string `name:"redis-ca" placeholder:"PATH" help:"As for ssed serve."`
	RedisCert      string `placeholder:"PATH" help:"As for ssed serve."`
	RedisKey       string `placeholder:"PATH" help:"As for ssed serve."`
	Feed           string `default:"pattern" placeholder:"pattern|sharded" help:"As the instances have it, for what is published on Redis."`
	Partitions     string `default:"1" placeholder:"N" help:"As the instances have it, for --feed=sharded on Redis: the message goes to the shard channel of its partition."`
	StreamPrefix   string `default:"sse:stream:" placeholder:"TEXT" help:"As the instances have it, for --feed=sharded on Redis."`
	Envelope       string `default:"off" placeholder:"off|json" help:"As the instances have it, for what is published on Redis: with json, data that looks like an envelope is put into one."`
	BatchChannel   string `placeholder:"NAME" help:"As the instances have it: on Redis, lines are published on it, many at once."`

	ConfigFile string `name:"config" group:"file" placeholder:"PATH" help:"YAML file of \"ssed serve\", of which the values of these flags are taken."`

	envelopes bool           // Envelope, checked
	sharded   bool           // Feed, checked
	keys      redisconn.Keys // of the partition of Channel, for the way by Redis
}

// Help implements kong.HelpProvider.
func (pubCommand) Help() string {
	return `Prints the ID of each message on a line. Redis does not know the ID: with a Redis URL it prints how many subscriptions got the message. If none got it, the message is lost, and the exit code is 1.`
}

// publishFunc takes messages and returns what to print for each. With an error these are the
// ones before it; those behind it may have been published or not.
type publishFunc func(ctx context.Context, messages []sseproto.Message) (results []string, err error)

var errNobody = errors.New("nobody received it, the message is lost: no instance is linked to this Redis, or --feed, --partitions or --stream-prefix are not those of the instances")

func (c *pubCommand) run(inv *invocation, stdin io.Reader, stdout, stderr io.Writer) int {
	send, closeSender, err := c.sender(inv)
	if err != nil {
		return usageError(stderr, inv.command, inv.located(err))
	}
	defer closeSender()
	publish := func(data ...string) error {
		messages := make([]sseproto.Message, len(data))
		for i := range data {
			messages[i] = sseproto.Message{Event: c.Event, ID: c.ID, Data: data[i]}
		}
		results, err := send(context.Background(), messages)
		for _, result := range results {
			if result != "" {
				_, printErr := fmt.Fprintln(stdout, result)
				err = errors.Join(err, printErr)
			}
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

// What is published at once at most: POST /api/batch takes as many.
const (
	maxLines     = 1000
	maxLineBytes = 1 << 20
)

// messages calls publish for the argument, for standard input, or for its lines.
func (c *pubCommand) messages(stdin io.Reader, publish func(...string) error) error {
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
	lines := lineReader{bufio.NewReaderSize(stdin, maxLineBytes)}
	for {
		line, err := lines.next()
		list, size := []string{line}, len(line)
		for err == nil && len(list) < maxLines && size < maxLineBytes && lines.isThere() {
			line, err = lines.next()
			list, size = append(list, line), size+len(line)
		}
		if err != nil {
			list = list[:len(list)-1]
		}
		if len(list) > 0 {
			if err := publish(list...); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// lineReader reads lines of up to maxInput.
type lineReader struct{ *bufio.Reader }

// next returns a line without its end. io.EOF: there is none.
func (r lineReader) next() (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxInput:
			return "", errTooLong
		case errors.Is(err, bufio.ErrBufferFull):
		case err == nil || errors.Is(err, io.EOF) && len(line) > 0:
			return withoutLineEnd(string(line)), nil
		default:
			return "", err
		}
	}
}

// isThere reports whether the next line can be read without waiting for it.
func (r lineReader) isThere() bool {
	buffered, _ := r.Peek(r.Buffered()) // what is there is no error
	return bytes.IndexByte(buffered, '\n') >= 0
}

// withoutLineEnd leaves out the one line end that echo and editors put behind a text.
func withoutLineEnd(text string) string {
	if line, found := strings.CutSuffix(text, "\r\n"); found {
		return line
	}
	return strings.TrimSuffix(text, "\n")
}

// sender checks everything and chooses the way.
func (c *pubCommand) sender(inv *invocation) (send publishFunc, closeSender func(), err error) {
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
	partitions := p.partitions("--partitions", c.Partitions)
	c.keys = redisconn.KeysOf(option, p.prefix("--stream-prefix", c.StreamPrefix), partitionOf(c.Channel, partitions))
	if direct && !c.sharded && partitions > 1 {
		p.add("--partitions", "several need --feed=sharded, here and on the instances")
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
	p.channel("CHANNEL", c.Channel)
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
func (c *pubCommand) byRedis(option rueidis.ClientOption) (send publishFunc, closeSender func()) {
	lazy := redisconn.New(redisconn.Options(option), c.keys.Slot)
	publish := func(ctx context.Context, channel, payload string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, pubTimeout)
		defer cancel()
		client, err := lazy.Get(ctx)
		if err != nil {
			return "", err
		}
		n, err := client.Do(ctx, c.publication(client.B(), channel, payload)).AsInt64()
		if err != nil {
			return "", err
		}
		if n == 0 {
			err = errNobody
		}
		return receivers(n), err
	}
	send = func(ctx context.Context, messages []sseproto.Message) (results []string, err error) {
		for len(messages) > 0 && err == nil {
			channel, payload, n := c.command(messages)
			var result string
			if result, err = publish(ctx, channel, payload); result != "" {
				results = append(results, slices.Repeat([]string{result}, n)...)
			}
			messages = messages[n:]
		}
		return results, err
	}
	return send, lazy.Close
}

// publication publishes on Redis as the feed of the instances wants it.
func (c *pubCommand) publication(b rueidis.Builder, channel, payload string) rueidis.Completed {
	if c.sharded {
		return b.Spublish().Channel(c.keys.Messages).Message(channel + "\n" + payload).Build()
	}
	return b.Publish().Channel(channel).Message(payload).Build()
}

// payload is what Redis carries, as the gateway itself would publish it.
func (c *pubCommand) payload(m sseproto.Message) string {
	if c.envelopes {
		return string(sseproto.AppendPayload(nil, m))
	}
	return string(sseproto.AppendMarked(nil, m))
}

// command is what to publish on Redis for the first n messages. One goes as it is.
func (c *pubCommand) command(messages []sseproto.Message) (channel, payload string, n int) {
	var batch []byte
	var size int
	for _, m := range messages {
		text := c.payload(m)
		if size += sseproto.BatchedSize(c.Channel, text); n > 0 && size > sseproto.MaxBatchBytes {
			break
		}
		if n++; n == 1 {
			payload = text
		}
		if c.BatchChannel == "" {
			break
		}
		batch = sseproto.AppendBatched(batch, c.Channel, text)
	}
	if n == 1 {
		return c.Channel, payload, 1
	}
	return c.BatchChannel, string(batch), n
}

func receivers(n int64) string { return fmt.Sprintf("receivers: %d", n) }

// byAdmin uses POST /publish, and for many messages POST /api/batch.
func (c *pubCommand) byAdmin(base *url.URL, token string) (send publishFunc, closeSender func()) {
	client := &http.Client{Timeout: pubTimeout, Transport: outbound.Transport(pubTimeout)}
	if !c.Redirects { // a redirect would carry the message to whom the answer names
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	post := func(ctx context.Context, target *url.URL, body io.Reader, messages int) ([]string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
		if err != nil {
			return nil, err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, fmt.Errorf("--admin-url: %w", outbound.WithoutURL(err))
		}
		defer resp.Body.Close()
		return readResults(resp, messages)
	}
	one := base.JoinPath("publish")
	query := url.Values{"channel_id": {c.Channel}}
	for name, value := range map[string]string{"event": c.Event, "id": c.ID} {
		if value != "" {
			query.Set(name, value)
		}
	}
	one.RawQuery = query.Encode()
	send = func(ctx context.Context, messages []sseproto.Message) (results []string, err error) {
		if len(messages) > 1 && !slices.ContainsFunc(messages, isNoJSON) {
			return post(ctx, base.JoinPath("api", "batch"), c.objects(messages), len(messages))
		}
		for _, m := range messages {
			result, err := post(ctx, one, strings.NewReader(m.Data), 1)
			results = append(results, result...)
			if err != nil {
				return results, err
			}
		}
		return results, nil
	}
	return send, client.CloseIdleConnections
}

// isNoJSON tells data that a JSON string cannot hold byte for byte.
func isNoJSON(m sseproto.Message) bool { return !utf8.ValidString(m.Data) }

// objects is the body of a batch.
func (c *pubCommand) objects(messages []sseproto.Message) io.Reader {
	type object struct {
		Channel string `json:"channel_id"`
		Event   string `json:"event_type,omitempty"`
		ID      string `json:"id,omitempty"`
		Data    string `json:"data"`
	}
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	for _, m := range messages {
		if err := lines.Encode(object{c.Channel, m.Event, m.ID, m.Data}); err != nil {
			panic(err) // texts always have a JSON form
		}
	}
	return &body
}

// maxResultBytes is far more than an answer of the admin listener to a message.
const maxResultBytes = 16 << 10

// readResults reads the answer to one message, or a line for each of several.
func readResults(resp *http.Response, messages int) (results []string, err error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(messages)*maxResultBytes))
	if err != nil {
		return nil, err
	}
	answers := bytes.Split(bytes.TrimSpace(body), []byte("\n"))
	if resp.StatusCode != http.StatusOK || messages == 1 {
		answers = [][]byte{bytes.TrimSpace(body)}
	}
	for _, answer := range answers {
		result, err := readResult(resp, answer, messages > 1)
		if result != "" {
			results = append(results, result)
		}
		if err != nil {
			return results, err
		}
	}
	if messages > 1 && len(answers) != messages {
		return results, errNoListener
	}
	return results, nil
}

var errNoListener = errors.New("the answer is not that of an admin listener: is --admin-url right?")

func readResult(resp *http.Response, text []byte, isLine bool) (string, error) {
	var answer struct {
		ID        string
		Receivers *int64
		Error     string
	}
	decodeErr := json.Unmarshal(text, &answer)
	switch {
	case resp.StatusCode/100 == 3 && resp.Header.Get("Location") != "":
		return "", fmt.Errorf("the answer is %s, to %s: nothing is published; name that server by --admin-url, or give --follow-redirects", resp.Status, place(resp))
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted:
		return "", fmt.Errorf("the admin listener answered %s: %s", resp.Status, answer.Error)
	case decodeErr != nil:
		return "", errNoListener
	case isLine && answer.Error != "":
		return "", fmt.Errorf("the admin listener refused a line: %s", answer.Error)
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
