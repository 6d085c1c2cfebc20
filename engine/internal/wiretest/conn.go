// Package wiretest is a client for tests that speaks bytes: what it sends is sent as it
// is, and what it gets is checked byte by byte where that matters.
package wiretest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// testTimeout is how long a test waits for anything before it fails.
const testTimeout = time.Minute

// Conn is one connection. It is closed at the end of the test.
type Conn struct {
	net.Conn
	T testing.TB
	R *bufio.Reader // reads from Conn; behind the head of a stream in chunks, what is in them

	raw *bufio.Reader // reads from Conn
}

// Dial connects, from the address source if that is not "".
func Dial(t testing.TB, network, addr, source string) *Conn {
	t.Helper()
	dialer := &net.Dialer{}
	if source != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	conn, err := dialer.Dial(network, addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
	raw := bufio.NewReader(conn)
	return &Conn{Conn: conn, T: t, R: raw, raw: raw}
}

// Send sends text.
func (c *Conn) Send(text string) *Conn {
	c.T.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(c.T, err)
	return c
}

// Answer reads one answer; the body of a stream is left to be read.
func (c *Conn) Answer(method string) *http.Response {
	c.T.Helper()
	resp, err := http.ReadResponse(c.raw, &http.Request{Method: method})
	require.NoError(c.T, err)
	if c.R = c.raw; method != http.MethodHead && slices.Contains(resp.TransferEncoding, "chunked") {
		c.R = bufio.NewReader(resp.Body)
	}
	return resp
}

// Whole reads one plain answer and its body.
func (c *Conn) Whole() (int, http.Header, string) {
	c.T.Helper()
	resp := c.Answer(http.MethodGet)
	body, err := io.ReadAll(resp.Body)
	require.NoError(c.T, err)
	return resp.StatusCode, resp.Header, string(body)
}

// RequireEnd waits until the server closes, with nothing more sent before.
func (c *Conn) RequireEnd() {
	c.T.Helper()
	for _, r := range []io.Reader{c.R, c.raw} {
		rest, err := io.ReadAll(r)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // a stream that ends without its last chunk
			require.ErrorIs(c.T, err, unix.ECONNRESET)
		}
		require.Empty(c.T, string(rest))
	}
}

// RequireRetry reads the line that tells a client when to come back, after low to high.
func (c *Conn) RequireRetry(low, high time.Duration) {
	c.T.Helper()
	line, err := c.R.ReadString('\n')
	require.NoError(c.T, err)
	digits, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "retry: ")
	require.True(c.T, ok, line)
	ms, err := strconv.Atoi(digits)
	require.NoError(c.T, err)
	require.GreaterOrEqual(c.T, time.Duration(ms)*time.Millisecond, low)
	require.LessOrEqual(c.T, time.Duration(ms)*time.Millisecond, high)
}

// RequireTooMany reads what a program is told at a limit of its address.
func (c *Conn) RequireTooMany(text string) {
	c.T.Helper()
	status, header, body := c.Whole()
	require.Equal(c.T, http.StatusTooManyRequests, status)
	require.Equal(c.T, text+"\n", body)
	require.Equal(c.T, "*", header.Get("Access-Control-Allow-Origin"))
	after, err := strconv.Atoi(header.Get("Retry-After"))
	require.NoError(c.T, err)
	require.Positive(c.T, after)
}

const (
	// GetHealth asks for the health.
	GetHealth = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
	// AsEventSource is the field by which an EventSource is known.
	AsEventSource = "Accept: text/event-stream"
)

// GetStream asks for a stream of a channel, with further fields.
func GetStream(channel string, fields ...string) string {
	return "GET /sse/connect?channel_id=" + channel + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(fields, "\r\n"), "\r\n")
}

// ForwardedFor is GetStream as a proxy sends it for a client.
func ForwardedFor(client string) string {
	return strings.Replace(GetStream("a"), "Host: a", "Host: a\r\nX-Forwarded-For: "+client, 1)
}

// OpenFiles counts the descriptors of this process.
func OpenFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// Eventually waits until ok.
func Eventually(t testing.TB, ok func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, ok, testTimeout, time.Millisecond, append([]any{what}, args...)...)
}
