package target

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// defaultDepth is how many commands may wait for their answer: a burst of 100 and
// what an open loop has under way while a server stalls for a moment. A full
// pipeline makes Publish wait, which the latency of an open loop shows.
const defaultDepth = 4096

// Publisher sends messages over one connection without waiting for each answer.
// Its methods are for one goroutine.
type Publisher struct {
	conn  net.Conn
	proto protocol
	out   []byte
	quiet bool          // Redis was told not to answer
	slots chan struct{} // one per unanswered command
	done  chan struct{} // closed when the reader of the answers has ended

	mu  sync.Mutex
	err error // the first failure
}

// protocol is how a command is written and its answer read.
type protocol interface {
	appendCommand(dst []byte, channel string, body []byte) []byte
	// readAnswer reads the answer to one command.
	readAnswer(r *bufio.Reader) error
	// answers is false for a protocol without answers.
	answers() bool
}

// NewPublisher connects to where a target's messages go:
//
//	redis://[user:password@]host:port[/db][?channel=prefix{channel}]  PUBLISH
//	http://host:port/path?x={channel}                                 POST, the body is the message
//	line://host:port                                                  the floor server's protocol
func NewPublisher(t *Target) (*Publisher, error) {
	u, err := parsePublishURL(t.Publish)
	if err != nil {
		return nil, err
	}
	addr, err := publishAddr(t.Publish)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("target: publish: %w", err)
	}
	p := &Publisher{conn: conn, done: make(chan struct{})}
	r := bufio.NewReader(conn)
	switch u.Scheme {
	case "redis":
		proto := respProtocol{channel: u.Query().Get("channel")}
		if err := proto.login(conn, r, u); err != nil {
			conn.Close()
			return nil, err
		}
		p.proto = proto
	case "http":
		p.proto = newHTTPProtocol(t.Publish, u)
	default:
		p.proto = lineProtocol{}
	}
	depth := t.Depth
	if depth <= 0 {
		depth = defaultDepth
	}
	p.slots = make(chan struct{}, depth)
	go p.readAnswers(r)
	return p, nil
}

func parsePublishURL(text string) (*url.URL, error) {
	// The placeholder's braces are not allowed in a host or path as they are.
	u, err := url.Parse(strings.ReplaceAll(text, Placeholder, "CHANNEL"))
	if err != nil {
		return nil, errors.New("target: malformed publish template") // the text may hold a password
	}
	switch u.Scheme {
	case "redis", "http", "line":
		return u, nil
	}
	return nil, fmt.Errorf("target: publish: unknown scheme %q, want redis, http or line", u.Scheme)
}

func publishAddr(text string) (netip.AddrPort, error) {
	u, err := parsePublishURL(text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := "80"
	if u.Scheme == "redis" {
		port = "6379"
	}
	return resolve(u.Host, port)
}

// Publish queues a message; body is borrowed for the call. It waits while the
// pipeline is full.
func (p *Publisher) Publish(channel string, body []byte) error {
	if p.proto.answers() && !p.quiet {
		if err := p.takeSlot(); err != nil {
			return err
		}
	}
	p.out = p.proto.appendCommand(p.out, channel, body)
	return nil
}

// takeSlot makes room for one more answer. It waits while the pipeline is full.
func (p *Publisher) takeSlot() error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	if err := p.Flush(); err != nil {
		return err
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-p.done:
		return p.failure()
	}
}

// Quiet tells Redis not to answer until Settle: an answer to each message costs
// it a write(2) and wakes a reader in this process up, which the way into the
// floor does not. What goes wrong meanwhile is seen by what is missing. To other
// protocols it does nothing.
func (p *Publisher) Quiet() {
	if _, resp := p.proto.(respProtocol); resp && !p.quiet {
		p.out = appendWords(p.out, "CLIENT", "REPLY", "OFF")
		p.quiet = true
	}
}

// Flush sends what is queued, in one write.
func (p *Publisher) Flush() error {
	if len(p.out) == 0 {
		return p.failure()
	}
	_, err := p.conn.Write(p.out)
	p.out = p.out[:0]
	if err != nil {
		return fmt.Errorf("target: publish: %w", err)
	}
	return p.failure()
}

// Settle flushes and waits until every command is answered; after Quiet, until
// Redis has taken them all, and answers again.
func (p *Publisher) Settle() error {
	if p.quiet {
		if err := p.takeSlot(); err != nil {
			return err
		}
		p.out = appendWords(p.out, "CLIENT", "REPLY", "ON") // answered with OK
		p.quiet = false
	}
	if err := p.Flush(); err != nil {
		return err
	}
	// Holding every slot means that no answer is outstanding.
	for range cap(p.slots) {
		select {
		case p.slots <- struct{}{}:
		case <-p.done:
			return p.failure()
		}
	}
	for range cap(p.slots) {
		<-p.slots
	}
	return p.failure()
}

// Close ends the connection and waits for its reader.
func (p *Publisher) Close() {
	p.conn.Close()
	<-p.done
}

func (p *Publisher) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// readAnswers frees a slot for each answer, until the connection ends.
func (p *Publisher) readAnswers(r *bufio.Reader) {
	defer close(p.done)
	for {
		if err := p.proto.readAnswer(r); err != nil {
			p.mu.Lock()
			p.err = fmt.Errorf("target: publish: %w", err)
			p.mu.Unlock()
			return
		}
		<-p.slots
	}
}

// lineProtocol is the floor server's: "PUB <channel> <bytes>\n<body>", no answers.
type lineProtocol struct{}

func (lineProtocol) appendCommand(dst []byte, channel string, body []byte) []byte {
	dst = append(dst, "PUB "...)
	dst = append(dst, channel...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, '\n')
	return append(dst, body...)
}

func (lineProtocol) readAnswer(r *bufio.Reader) error {
	_, err := r.ReadByte()
	if err == nil {
		err = errors.New("unexpected answer")
	}
	return err
}

func (lineProtocol) answers() bool { return false }

// respProtocol is Redis' PUBLISH (RESP2).
type respProtocol struct {
	channel string // a template; empty: the channel as it is
}

func (p respProtocol) appendCommand(dst []byte, channel string, body []byte) []byte {
	if p.channel != "" {
		channel = strings.ReplaceAll(p.channel, "CHANNEL", channel)
	}
	dst = appendBulk(append(dst, "*3\r\n"...), "PUBLISH")
	dst = appendBulk(dst, channel)
	return appendBulk(dst, body)
}

func appendWords(dst []byte, words ...string) []byte {
	dst = fmt.Appendf(dst, "*%d\r\n", len(words))
	for _, word := range words {
		dst = appendBulk(dst, word)
	}
	return dst
}

func appendBulk[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = append(dst, '$')
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, "\r\n"...)
	dst = append(dst, s...)
	return append(dst, "\r\n"...)
}

// readAnswer reads an integer, a status or an error.
func (respProtocol) readAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if line[0] != ':' && line[0] != '+' {
		return fmt.Errorf("redis: %s", bytes.TrimSpace(line[1:]))
	}
	return nil
}

func (respProtocol) answers() bool { return true }

// login sends AUTH and SELECT where the URL asks for them.
func (p respProtocol) login(w io.Writer, r *bufio.Reader, u *url.URL) error {
	var commands [][]string
	if password, ok := u.User.Password(); ok {
		auth := []string{"AUTH", u.User.Username(), password}
		if u.User.Username() == "" {
			auth = []string{"AUTH", password}
		}
		commands = append(commands, auth)
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		commands = append(commands, []string{"SELECT", db})
	}
	for _, words := range commands {
		if _, err := w.Write(appendWords(nil, words...)); err != nil {
			return fmt.Errorf("target: redis %s: %w", words[0], err)
		}
		if err := p.readAnswer(r); err != nil {
			return fmt.Errorf("target: redis %s: %w", words[0], err)
		}
	}
	return nil
}

// httpProtocol posts the message as the body.
type httpProtocol struct {
	before, after string // the request head around the channel
}

func newHTTPProtocol(template string, u *url.URL) httpProtocol {
	path := template[strings.Index(template, "://")+len("://"):]
	path = path[strings.IndexAny(path+"/", "/?"):]
	before, after, _ := strings.Cut(path, Placeholder)
	after += " HTTP/1.1\r\nHost: " + u.Host + "\r\nContent-Length: "
	return httpProtocol{before: "POST /" + strings.TrimPrefix(before, "/"), after: after}
}

func (p httpProtocol) appendCommand(dst []byte, channel string, body []byte) []byte {
	dst = append(dst, p.before...)
	dst = append(dst, channel...)
	dst = append(dst, p.after...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, body...)
}

func (httpProtocol) readAnswer(r *bufio.Reader) error {
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the server answered %s", answer.Status)
	}
	return nil
}

func (httpProtocol) answers() bool { return true }
