package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"ssed/internal/follow"
	"ssed/sseproto"
)

// tailCommand is ssed tail.
type tailCommand struct {
	Channels []string `arg:"" name:"channel" help:"Channels to follow."`

	URL       string `name:"url" default:"http://127.0.0.1:8080" placeholder:"URL" help:"URL of the streams. Without a path: /sse/connect."`
	TokenFile string `placeholder:"PATH" help:"File with a token, sent as Authorization: Bearer. Or put the token itself into SSED_TOKEN."`
	Since     string `env:"-" placeholder:"ID" help:"Begin after the event with this ID, or at a time: earliest, 10m, a Unix time, 2026-11-30T10:00:00Z. Default: now."`
	Last      string `env:"-" placeholder:"N" help:"Begin with the newest N events of each channel."`
	Count     string `short:"n" env:"-" placeholder:"N" help:"End after so many events. Default: never."`
	Heartbeat string `name:"heartbeat-event" placeholder:"NAME" help:"The --heartbeat-event of the instances. tail leaves these events out and does not count them."`
	JSON      bool   `name:"json" env:"-" help:"Print a line of JSON for each event: id, event, data."`
	Raw       bool   `env:"-" help:"Print data as they are, with control characters. Use it for files and programs only: control characters can change what a terminal shows."`
}

// envToken has no flag: a command line is visible to other users.
const envToken = "SSED_TOKEN"

// Help implements kong.HelpProvider.
func (tailCommand) Help() string {
	return `Prints the data of each event on a line. When the stream ends it comes back with the last ID, as a browser does. Standard error tells of that, and of gaps. It prints control characters, and marks that turn the direction of text, as \x1b and \u202e, also into a pipe. --raw leaves them.`
}

func (c *tailCommand) run(inv *invocation, stdout, stderr io.Writer) int {
	cfg, count, err := c.config()
	if err != nil {
		return usageError(stderr, inv.command, inv.located(err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, done := context.WithCancel(ctx)
	defer done()
	out := printer{out: stdout, notes: stderr, json: c.JSON, left: count, done: done, raw: c.Raw, heartbeat: c.Heartbeat}
	cfg.OnEvent, cfg.OnNote = out.event, out.note
	last, err := follow.Run(ctx, cfg)
	switch {
	case out.err != nil:
		return failed(stderr, out.err)
	case count > 0 && out.left == 0:
		return exitOK
	case err != nil:
		return failed(stderr, err)
	case last != "":
		out.note("the last ID was " + last)
	}
	if count > 0 {
		return failed(stderr, fmt.Errorf("%d of %d events did not come", out.left, count))
	}
	return exitOK
}

func (c *tailCommand) config() (cfg follow.Config, count int, err error) {
	var p problems
	start, since := p.start(c.Since, c.Last)
	cfg = follow.Config{
		URL:   p.streamURL("--url", c.URL, c.Channels, start),
		Token: p.clientToken("--token-file", c.TokenFile),
		Since: since,
	}
	return cfg, p.optionalCount("--count", c.Count), errors.Join(p...)
}

// start is where the stream begins: parameters for its URL, or the ID of an event.
func (p *problems) start(since, last string) (start url.Values, id string) {
	switch _, err := sseproto.StartPointOf([]byte(since), nil, 0); {
	case since != "" && last != "":
		p.add("--last", "not together with --since")
	case last != "":
		return url.Values{sseproto.ParamLast: {strconv.Itoa(p.count("--last", last))}}, ""
	case since == "":
	case err == nil:
		return url.Values{sseproto.ParamSince: {since}}, ""
	default:
		if _, _, err := sseproto.ParseEventID(since); err != nil {
			p.add("--since", "%.100q is not the ID of an event, such as 1795431293042-7, nor a time", since)
		}
	}
	return nil, since
}

// streamURL adds the path, the channels and more parameters.
func (p *problems) streamURL(flag, text string, channels []string, more url.Values) string {
	u := p.httpURL(flag, text)
	if u.Path == "" || u.Path == "/" {
		u.Path = "/sse/connect"
	}
	query := u.Query()
	for _, channel := range channels {
		if channel == "" {
			p.add("CHANNEL", "it is empty")
		}
		query.Add("channel_id", channel)
	}
	maps.Copy(query, more)
	u.RawQuery = query.Encode()
	return u.String()
}

// httpURL never repeats the text: it may hold a password.
func (p *problems) httpURL(flag, text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		p.add(flag, "not a URL such as http://127.0.0.1:8080 or https://example.com")
		return &url.URL{}
	}
	u.Fragment = ""
	return u
}

// clientToken reads the token of a client from a file or the environment.
func (p *problems) clientToken(flag, path string) string {
	token := os.Getenv(envToken)
	if path != "" {
		content, err := os.ReadFile(path)
		if err != nil {
			p.add(flag, "%w", err)
			return ""
		}
		token = strings.TrimSpace(string(content))
	}
	if strings.ContainsFunc(token, isNotPrintableASCII) {
		p.add(flag, "the token has other than printable ASCII characters")
	}
	return token
}

func isNotPrintableASCII(r rune) bool { return r <= ' ' || r > '~' }

// failed tells why a command could not do its work.
func failed(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, "ssed:", visible(err.Error())) // which may have what a server said
	return exitFailed
}

// printer writes events to the terminal or a pipe.
type printer struct {
	out, notes io.Writer
	json       bool
	raw        bool   // data are written as they are
	heartbeat  string // type of the events that are none; "": there are no such
	left       int    // events until the end; not positive: there is none
	done       func()

	ended bool
	err   error // of out
}

func (p *printer) end() {
	p.ended = true
	p.done()
}

func (p *printer) note(text string) { fmt.Fprintln(p.notes, "ssed tail:", visible(text)) }

func (p *printer) event(id, eventType, data string) {
	gap := eventType == sseproto.EventGap
	switch {
	case p.ended: // what came with the last one
		return
	case p.heartbeat != "" && eventType == p.heartbeat && data == "":
		return
	case gap:
		p.note("gap: " + data)
	}
	switch {
	case p.json:
		p.write(p.line(id, eventType, data))
	case gap:
	case p.raw:
		p.write(data)
	default:
		p.write(visible(data))
	}
	if !gap {
		if p.left--; p.left == 0 {
			p.end()
		}
	}
}

// line is an event as JSON. What json.Marshal leaves as it is and a terminal does not
// is escaped, which keeps the value.
func (p *printer) line(id, eventType, data string) string {
	text, _ := json.Marshal(struct { // strings only
		ID    string `json:"id"`
		Event string `json:"event"`
		Data  string `json:"data"`
	}{id, eventType, data})
	if p.raw {
		return string(text)
	}
	return escaped(string(text), `\u%04x`)
}

func (p *printer) write(line string) {
	if _, err := io.WriteString(p.out, line+"\n"); err != nil {
		p.err = err
		p.end()
	}
}
