package sseproto

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mustParse parses a whole head and checks that none of it is left.
func mustParse(t testing.TB, head string) Request {
	t.Helper()
	req, n, err := ParseRequest([]byte(head), Limits{})
	require.NoError(t, err, "%q", head)
	require.Equal(t, len(head), n, "%q", head)
	return req
}

// get is a GET with the given field lines beside Host.
func get(lines string) string { return "GET / HTTP/1.1\r\nHost: h\r\n" + lines + "\r\n" }

func TestRequestHasItsParts(t *testing.T) {
	head := "GET /sse/connect?channel_id=a&b=c?d HTTP/1.1\r\nHost: example.com:8080\r\nAccept: text/event-stream\r\nX-Empty:\r\nLast-Event-ID:  5-1 \t\r\naccept: */*\r\n\r\n"
	req, n, err := ParseRequest([]byte(head+"next"), Limits{})
	require.NoError(t, err)
	require.Equal(t, len(head), n)
	require.Equal(t, "GET", string(req.Method))
	require.Equal(t, "/sse/connect?channel_id=a&b=c?d", string(req.Target))
	require.Equal(t, OriginForm, req.Form)
	require.Equal(t, "/sse/connect", string(req.Path))
	require.Equal(t, "channel_id=a&b=c?d", string(req.Query))
	require.Equal(t, "example.com:8080", string(req.Host))
	require.Equal(t, 1, req.Minor)
	require.Equal(t, int64(-1), req.ContentLength)
	require.True(t, req.KeepAlive())
	require.False(t, req.HasBody())

	require.Equal(t, "text/event-stream", string(req.Header("ACCEPT")))
	require.Equal(t, "5-1", string(req.Header("Last-Event-ID")))
	require.Nil(t, req.Header("Origin"))
	require.NotNil(t, req.Header("X-Empty"))
	require.Empty(t, req.Header("X-Empty"))
	var accepts, names []string
	for value := range req.Values("accept") {
		accepts = append(accepts, string(value))
	}
	for name := range req.Fields() {
		names = append(names, string(name))
	}
	require.Equal(t, []string{"text/event-stream", "*/*"}, accepts)
	require.Equal(t, []string{"Host", "Accept", "X-Empty", "Last-Event-ID", "accept"}, names)
	for range req.Values("accept") {
		break
	}
}

func TestTargetForms(t *testing.T) {
	f := func(line string, form TargetForm, path, query, host string) {
		t.Helper()
		req := mustParse(t, line+" HTTP/1.1\r\nHost: field\r\n\r\n")
		require.Equal(t, form, req.Form, line)
		require.Equal(t, path, string(req.Path), line)
		require.Equal(t, query, string(req.Query), line)
		require.Equal(t, host, string(req.Host), line)
	}
	f("GET /", OriginForm, "/", "", "field")
	f("GET /a?", OriginForm, "/a", "", "field")
	f("GET //a/../b;p?x=%zz", OriginForm, "//a/../b;p", "x=%zz", "field")
	f("GET /I\xe2\x80\x99m^|{}", OriginForm, "/I\xe2\x80\x99m^|{}", "", "field")
	f("GET http://target:80/p?q", AbsoluteForm, "/p", "q", "target:80")
	f("GET HTTPS://target/p", AbsoluteForm, "/p", "", "target")
	f("GET http://target", AbsoluteForm, "/", "", "target")
	f("GET http://target?q", AbsoluteForm, "/", "q", "target")
	f("GET http://[::1]:8080/", AbsoluteForm, "/", "", "[::1]:8080")
	f("CONNECT target:443", AuthorityForm, "", "", "target:443")
	f("OPTIONS *", AsteriskForm, "", "", "field")
	f("OPTIONS /p", OriginForm, "/p", "", "field")

	require.Nil(t, func() []byte { r := mustParse(t, get("")); return r.Query }())
	empty := mustParse(t, "GET /? HTTP/1.1\r\nHost: h\r\n\r\n")
	require.NotNil(t, empty.Query)
}

func TestRefusals(t *testing.T) {
	f := func(head string, want error) {
		t.Helper()
		_, n, err := ParseRequest([]byte(head), Limits{})
		require.ErrorIs(t, err, want, "%q", head)
		require.Zero(t, n, "%q", head)
	}
	const ok = " HTTP/1.1\r\nHost: h\r\n\r\n"
	line := func(l string) string { return l + "\r\nHost: h\r\n\r\n" }

	for _, head := range []string{
		" / HTTP/1.1", "GET", "GET /", "GET / ", "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET / HTTP/1.1 ", "GET / HTTP/1.1 x",
		"G(T / HTTP/1.1", "G\tT / HTTP/1.1", "GET / http/1.1", "GET / HTTP/1.10", "GET / HTTP/01.1", "GET / HTTP/1", "GET / HTTP/1,1",
		"GET / HTTP/-1.1", "GET / FTP/1.1", "GET / IHTTP/1.1", "GET / HTTP/1.x", "GET\t/\tHTTP/1.1", "G\xc3T / HTTP/1.1",
		"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443",
	} {
		f(line(head), ErrBadRequestLine)
	}
	for _, version := range []string{"2.0", "0.9", "9.9", "3.0"} {
		f(line("GET / HTTP/"+version), ErrVersion)
	}
	f("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ErrVersion)

	for _, target := range []string{
		"GET *", "PRI *", "GET !", "GET a", "GET h:80", "GET /#f", "GET /a\tb", "GET http:/a", "GET ftp://h/", "GET http:///a", "GET http://:80/",
		"GET http://u@h/", "GET http://u:p@h/", "GET http://h:8x/", "GET http://[::1/", "GET http://h/a#f", "GET http://?q", "GET ://h/",
		"CONNECT h", "CONNECT h:", "CONNECT :80", "CONNECT /", "CONNECT *", "CONNECT http://h:80/", "CONNECT [::1]", "OPTIONS **",
	} {
		f(target+ok, ErrBadTarget)
	}

	for _, head := range []string{
		"\x16\x03\x01", "GET /\x00", "GET\n", "\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\rX", "\rX", "\r\r", "GET / HTTP/1.1\r\r\n", "GET /\x7f",
		"GET / HTTP/1.1\r\nX: a\x00", "GET / HTTP/1.1\r\nX: a\nb", "GET / HTTP/1.1\r\nX: a\rb", "GET / HTTP/1.1\r\n\rX", "GET / HTTP/1.1\r\nX\x01",
		"GET / HTTP/1.1\r\nHost: h\n\n", "GET / HTTP/1.1\r\nX: \x1b", "GET / HTTP/1.1\r\nX: 12345678\x7f",
	} {
		f(head, ErrBadOctet)
	}
	f("\r\n\r\n\r\n\r\n\r\n", ErrLeadingLines)

	for _, l := range []string{" X: a", "\tX: a", " ", "\t"} {
		f(get(l+"\r\n"), ErrFold)
		f("GET / HTTP/1.1\r\n"+l+"\r\nHost: h\r\n\r\n", ErrFold)
	}
	for _, l := range []string{"X", ": a", "X : a", "X\t: a", "X[: a", "X Y: a", "\xc3: a", "X\"Y: a", "X=Y: a", "{: a", "X/Y: a"} {
		f(get(l+"\r\n"), ErrBadField)
	}

	f("GET / HTTP/1.1\r\n\r\n", ErrBadHost)
	f("GET / HTTP/1.2\r\nX: y\r\n\r\n", ErrBadHost)
	f("GET http://h/ HTTP/1.1\r\n\r\n", ErrBadHost)
	f("GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", ErrBadHost)
	f(get("hOST: h\r\n"), ErrBadHost)
	f(get("Host:\r\n"), ErrBadHost)
	for _, host := range []string{
		"a b", "h/path", "{", "u@h", "h:8x", "h:80:90", "[::1", "[::1]x", "[::g]", "[1.2.3.4]", "[]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "]", "h]:80",
		"a%zz", "a%4", "é", "\"h\"", "h\\", "a:b:c", "[", "http://h",
	} {
		f("GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n", ErrBadHost)
	}

	for _, value := range []string{"", "-1", "+5", "0x5", "1 0", "1,1", "0, 5", ",", "1Z", "１", "5 ,", "1e3", "1.0", "99999999999999999999x"} {
		f(get("Content-Length: "+value+"\r\n"), ErrBadContentLength)
	}
	f(get("Content-Length: 5\r\nContent-Length: 5\r\n"), ErrBadContentLength)
	f(get("Content-Length: 0\r\ncontent-length: 5\r\n"), ErrBadContentLength)
	f(get("Content-Length: 9223372036854775808\r\n"), ErrContentTooLarge)
	f(get("Content-Length: 1000000000000000000000\r\n"), ErrContentTooLarge)

	for _, value := range []string{
		"", "identity", "gzip", "xchunked", "chunk", "chunked,", ",chunked", ", chunked", "chunked, gzip", "chunked, chunked", "chunked, identity", "chunked foo",
		"\"chunked\"", "chunked;q=1", "chunkedchunked", "\xffchunked\xff", "=?iso-8859-1?B?Y2h1bmtlZA==?=",
	} {
		f(get("Transfer-Encoding: "+value+"\r\n"), ErrBadTransferEncoding)
	}
	f(get("Transfer-Encoding: \vchunked\r\n"), ErrBadOctet)
	f(get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), ErrBadTransferEncoding)
	f(get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), ErrBadTransferEncoding)
	f(get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), ErrBadTransferEncoding)
	f("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", ErrBadTransferEncoding)
	f(get("Transfer-Encoding: gzip, chunked\r\n"), ErrTransferCoding)

	f(get("Expect: x 100-continue\r\n"), ErrExpectation)
	f(get("Expect: 100-continue, x\r\n"), ErrExpectation)
	f(get("Expect: x\r\nTransfer-Encoding: gzip, chunked\r\n"), ErrTransferCoding)
}

func TestAcceptedVariants(t *testing.T) {
	for _, head := range []string{
		"\r\n\r\n\r\n\r\n" + get(""),
		get("X.Custom|Pipe: ok\r\nX-Test:v\r\nX-Obs: \xff\xfe\r\nX:\ta\tb\t\r\n"),
		"BREW / HTTP/1.1\r\nHost:\th \r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.9\r\nHost: h\r\n\r\n",
	} {
		mustParse(t, head)
	}
	for _, host := range []string{"", "h", "h:", "h:80", "foo-bar_baz.com", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]", "127.0.0.1:1", "a%41b", "a!$&'()*+,;=~"} {
		req := mustParse(t, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		require.Equal(t, host, string(req.Host))
		require.NotNil(t, req.Host)
	}
	require.Nil(t, func() []byte { r := mustParse(t, "GET / HTTP/1.0\r\n\r\n"); return r.Host }())
}

func TestKeepAliveFollowsVersionAndConnection(t *testing.T) {
	f := func(minor int, lines string, want bool) {
		t.Helper()
		req := mustParse(t, fmt.Sprintf("GET / HTTP/1.%d\r\nHost: h\r\n%s\r\n", minor, lines))
		require.Equal(t, want, req.KeepAlive(), "1.%d %q", minor, lines)
	}
	f(1, "", true)
	f(1, "Connection: close\t\r\n", false)
	f(1, "Connection: Upgrade, CLOSE\r\n", false)
	f(1, "Connection: x\r\nConnection: ,, close ,\r\n", false)
	f(1, "Connection: keep-alive, close\r\n", false)
	f(1, "Connection: closed\r\nX-Connection: close\r\n", true)
	f(0, "", false)
	f(0, "Connection: Keep-Alive\r\n", true)
	f(0, "Connection: keep-alive, close\r\n", false)
	f(0, "Connection: \xe2\x84\xaaeep-alive\r\n", false)
}

func TestBodyFactsAreExposed(t *testing.T) {
	f := func(lines string, length int64, chunked, expect, body bool) {
		t.Helper()
		req := mustParse(t, get(lines))
		require.Equal(t, length, req.ContentLength, lines)
		require.Equal(t, chunked, req.Chunked, lines)
		require.Equal(t, expect, req.ExpectContinue, lines)
		require.Equal(t, body, req.HasBody(), lines)
	}
	f("", -1, false, false, false)
	f("Content-Length: 0\r\n", 0, false, false, false)
	f("Content-Length: 005\r\n", 5, false, false, true)
	f("Content-Length: 9223372036854775807\r\n", 1<<63-1, false, false, true)
	f("transfer-encoding: \tChunked \r\n", -1, true, false, true)
	f("Expect: 100-Continue\r\nContent-Length: 1\r\n", 1, false, true, true)
	f("Expect:\r\n", -1, false, false, false)
	old := mustParse(t, "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
	require.False(t, old.ExpectContinue, "a client of HTTP/1.0 does not understand 100")
}

func TestLimitsOfTheHead(t *testing.T) {
	f := func(b string, lim Limits, want error) {
		t.Helper()
		_, n, err := ParseRequest([]byte(b), lim)
		require.ErrorIs(t, err, want)
		require.Equal(t, want == nil, n > 0)
	}
	fields := func(n int) string { return get(strings.Repeat("X: y\r\n", n-1)) }
	f(fields(100), Limits{}, nil)
	f(fields(101), Limits{}, ErrTooManyFields)
	f(fields(3), Limits{MaxFields: 3}, nil)
	f(fields(4), Limits{MaxFields: 3}, ErrTooManyFields)

	exact := get("")
	f(exact, Limits{MaxHeadBytes: len(exact)}, nil)
	f(exact+"more", Limits{MaxHeadBytes: len(exact)}, nil)
	f(exact, Limits{MaxHeadBytes: len(exact) - 1}, ErrHeadTooLarge)
	f(exact[:len(exact)-1], Limits{MaxHeadBytes: len(exact) - 1}, ErrHeadTooLarge)

	f("GET /"+strings.Repeat("a", 8000)+" HTTP/1.1\r\nHost: h\r\n\r\n", Limits{}, nil)
	f("GET /"+strings.Repeat("a", DefaultMaxHeadBytes), Limits{}, ErrTargetTooLong)
	f(strings.Repeat("A", DefaultMaxHeadBytes), Limits{}, ErrMethodTooLong)
	f("GET / HTTP/1.1\r\n"+strings.Repeat("A", DefaultMaxHeadBytes), Limits{}, ErrHeadTooLarge)
	f("GET / HTTP/1.1\r\nX: "+strings.Repeat("a", DefaultMaxHeadBytes), Limits{}, ErrHeadTooLarge)
}

func TestRefusalsHaveAStatus(t *testing.T) {
	f := func(err error, want int) {
		t.Helper()
		require.Equal(t, want, StatusOf(err))
		require.Equal(t, want, StatusOf(fmt.Errorf("wrapped: %w", err)))
	}
	f(ErrBadOctet, 400)
	f(ErrBadHost, 400)
	f(ErrContentTooLarge, 413)
	f(ErrTargetTooLong, 414)
	f(ErrExpectation, 417)
	f(ErrHeadTooLarge, 431)
	f(ErrTooManyFields, 431)
	f(ErrTransferCoding, 501)
	f(ErrMethodTooLong, 501)
	f(ErrVersion, 505)
	f(ErrNoChannel, 400)
	f(errors.New("other"), 500)
	var refused *ProtocolError
	require.ErrorAs(t, ErrFold, &refused)
	require.Equal(t, "folded header field", refused.Text())
	require.Equal(t, "sseproto: folded header field", refused.Error())
}

// feed gives the parser the head in pieces as a server does: it asks scan first.
func feed(b []byte, size int, lim Limits) (req Request, n, parses int, err error) {
	var scan HeadScan
	for end := min(size, len(b)); ; end = min(end+size, len(b)) {
		if scan.Ready(b[:end], lim) {
			parses++
			if req, n, err = ParseRequest(b[:end], lim); n > 0 || err != nil {
				return req, n, parses, err
			}
		}
		if end == len(b) {
			return req, n, parses, err
		}
	}
}

func TestSingleBytesCostOneParsePerLine(t *testing.T) {
	head := []byte(get(strings.Repeat("X-Name: a value\r\n", 99)))
	_, n, parses, err := feed(head, 1, Limits{})
	require.NoError(t, err)
	require.Equal(t, len(head), n)
	require.Equal(t, 102, parses)

	_, _, parses, err = feed([]byte("GET /"+strings.Repeat("a", 20000)), 1, Limits{})
	require.ErrorIs(t, err, ErrTargetTooLong)
	require.Equal(t, 1, parses)
}

func TestRequestVectors(t *testing.T) {
	for _, c := range loadRequests(t) {
		t.Run(c.ID, func(t *testing.T) {
			sent, closed := c.bytes(t)
			for _, size := range []int{1, 7, 512, len(sent) + 1} {
				if len(sent)/size > 1<<18 {
					continue
				}
				req, n, _, err := feed(sent, size, Limits{})
				got, channels := firstOutcome(req, sent[n:], n, err, closed)
				require.True(t, c.allows(func(want string) bool { return matchesOutcome(got, want) }),
					"%s (%v) in pieces of %d, accepted: %v", got, err, size, c.Accept)
				if got == "stream" && c.Channel != "" {
					require.Equal(t, []string{c.Channel}, channels)
				}
			}
		})
	}
}

// firstOutcome is what a server with the paths of ours answers first to a head of n bytes
// and what follows it.
func firstOutcome(req Request, rest []byte, n int, err error, closed bool) (outcome string, channels []string) {
	switch {
	case err != nil:
		return strconv.Itoa(StatusOf(err)), nil
	case n == 0 && closed:
		return "close", nil
	case n == 0:
		return "wait", nil
	case req.Form != AsteriskForm && req.Form != AuthorityForm && !slices.Contains([]string{"/health", "/sse/connect"}, string(req.Path)):
		return "404", nil
	case string(req.Method) == "OPTIONS":
		return "204", nil
	case string(req.Method) == "HEAD":
		return "200", nil
	case string(req.Method) == "POST" && string(req.Path) == "/sse/connect":
		if req.ContentLength < 0 && !req.Chunked {
			return strconv.Itoa(StatusOf(ErrNoLength)), nil
		}
		if _, err = req.ReadBody(rest, new(BodyScan)); err != nil {
			return strconv.Itoa(StatusOf(err)), nil
		}
	case string(req.Method) != "GET":
		return "405", nil
	case string(req.Path) == "/health":
		return "200", nil
	}
	channels, err = ChannelIDs(nil, req.Query, 32)
	if err != nil {
		return strconv.Itoa(StatusOf(err)), nil
	}
	return "stream", channels
}

func matchesOutcome(got, want string) bool {
	if len(want) == 3 && strings.HasSuffix(want, "xx") {
		return len(got) == 3 && got[0] == want[0]
	}
	return got == want
}

func addRequestSeeds(f *testing.F, add func(sent []byte)) {
	for _, c := range loadRequests(f) {
		if sent, _ := c.bytes(f); len(sent) < 4096 {
			add(sent)
		}
	}
}

func FuzzRequestChunking(f *testing.F) {
	addRequestSeeds(f, func(sent []byte) { f.Add(sent, uint16(1), uint16(200)) })
	f.Fuzz(func(t *testing.T, b []byte, size, maxHead uint16) {
		lim := Limits{MaxHeadBytes: int(maxHead), MaxFields: 8}
		want, wantN, wantErr := ParseRequest(b, lim)
		got, n, _, err := feed(b, int(size)+1, lim)
		require.Equal(t, wantErr, err)
		require.Equal(t, wantN, n)
		require.Equal(t, want, got)
		require.LessOrEqual(t, n, lim.maxHeadBytes())
	})
}

func FuzzRequestAgreesWithNetHTTP(f *testing.F) {
	addRequestSeeds(f, func(sent []byte) { f.Add(sent) })
	f.Fuzz(func(t *testing.T, b []byte) {
		req, n, err := ParseRequest(b, Limits{})
		if err != nil || n == 0 {
			return
		}
		theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(b[:n], "\r\n"))))
		if err != nil {
			return
		}
		require.Equal(t, theirs.Method, string(req.Method))
		require.Equal(t, theirs.RequestURI, string(req.Target))
		require.Equal(t, min(theirs.ProtoMinor, 1), req.Minor)
		if req.Form == OriginForm || req.Form == AbsoluteForm {
			require.Equal(t, theirs.URL.RawQuery, string(req.Query))
			path, err := url.PathUnescape(string(req.Path))
			require.NoError(t, err)
			if theirs.URL.Path != "" {
				require.Equal(t, theirs.URL.Path, path)
			}
		}
		requireSameHost(t, theirs, req)
		require.Equal(t, slices.Equal(theirs.TransferEncoding, []string{"chunked"}), req.Chunked)
		require.Equal(t, req.HasBody(), theirs.ContentLength != 0)
		requireSameFields(t, theirs.Header, req)
	})
}

// requireSameHost compares the host; net/http cuts what follows a "/" or a space in
// it, which ParseRequest has refused.
func requireSameHost(t *testing.T, theirs *http.Request, req Request) {
	t.Helper()
	host := string(req.Host)
	if req.Form == AbsoluteForm || req.Form == AuthorityForm {
		host, _ = url.PathUnescape(host)
	}
	require.Equal(t, theirs.Host, host)
}

// requireSameFields compares the fields that net/http leaves in the header.
func requireSameFields(t *testing.T, theirs http.Header, req Request) {
	t.Helper()
	ours := http.Header{}
	for name, value := range req.Fields() {
		key := textproto.CanonicalMIMEHeaderKey(string(name))
		ours[key] = append(ours[key], string(value))
	}
	for _, taken := range []string{"Host", "Transfer-Encoding", "Content-Length", "Trailer", "Cache-Control"} {
		delete(ours, taken)
		delete(theirs, taken)
	}
	require.Equal(t, ours, theirs)
}

func BenchmarkParseRequest(b *testing.B) {
	head := []byte("GET /sse/connect?channel_id=user123 HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
		"Accept: text/event-stream\r\nCache-Control: no-cache\r\nOrigin: https://app.example.com\r\nSec-Fetch-Site: same-site\r\n" +
		"Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://app.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Accept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n")
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := ParseRequest(head, Limits{}); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
