package sseproto

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

// post is a request for a stream with a body of that length.
func post(contentType, body string, fields ...string) string {
	fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	return "POST /sse/connect HTTP/1.1\r\nHost: h\r\nContent-Type: " + contentType + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + body
}

// postChunks is one with a body in chunks of that size.
func postChunks(contentType, body string, size int) string {
	var b strings.Builder
	b.WriteString("POST /sse/connect HTTP/1.1\r\nHost: h\r\nContent-Type: " + contentType + "\r\nTransfer-Encoding: chunked\r\n\r\n")
	for rest := body; rest != ""; {
		n := min(size, len(rest))
		fmt.Fprintf(&b, "%X\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	return b.String() + LastChunk
}

// readPost reads a request and its body. n is the length of the body.
func readPost(t testing.TB, request string) (req Request, n int, err error) {
	t.Helper()
	req, head, err := ParseRequest([]byte(request), Limits{})
	require.NoError(t, err)
	require.NotZero(t, head)
	require.True(t, req.HasBody())
	n, err = req.ReadBody([]byte(request[head:]), new(BodyScan))
	require.Equal(t, n == 0, req.HasBody(), "it is read, or still to come")
	return req, n, err
}

func TestBodyIsReadAsParameters(t *testing.T) {
	f := func(contentType, body string, want ...string) {
		t.Helper()
		for _, request := range []string{post(contentType, body), postChunks(contentType, body, 7), postChunks(contentType, body, 1<<10)} {
			req, n, err := readPost(t, request)
			require.NoError(t, err)
			_, sent, _ := strings.Cut(request, "\r\n\r\n")
			require.Equal(t, len(sent), n)
			require.NoError(t, CheckQuery(req.Params))
			var got []string
			for name, value := range QueryParams(req.Params) {
				got = append(got, string(AppendUnescaped(nil, name))+"="+string(AppendUnescaped(nil, value)))
			}
			require.Equal(t, want, got, body)
			require.Empty(t, req.Query)
		}
	}
	f(formType, "channel_id=a&channel_id=b+c%2Bd", "channel_id=a", "channel_id=b c+d")
	f(formType+";charset=UTF-8", "channel_id%5B%5D=%C3%A4", "channel_id[]=ä")
	f("Application/X-WWW-Form-URLencoded", "&&a=1&b", "a=1", "b=")
	f(jsonType, `{"channels":["a","b"]}`, "channel_id=a", "channel_id=b")
	f("application/JSON ; charset=utf-8", " {\"channels\" : \"a\" ,\n\"tell\":\"channel\"}\r\n", "channel_id=a", "tell=channel")
	f(jsonType, `{"channels":["a"],"channel_id":["b",7],"channel_id[]":"c"}`, "channel_id=a", "channel_id=b", "channel_id=7", "channel_id[]=c")
	f(jsonType, `{"last_event_id":"5-7/a b","since":1795431293042,"last":10,"start":null,"x":[null,-1.50e3]}`,
		"last_event_id=5-7/a b", "since=1795431293042", "last=10", "x=-1.50e3")
	f(jsonType, `{"channels":["%41","a&channel_id=b","+ =#","\n\u0000\u007f","\u00e4\ud83d\ude00"],"a&b=c":"d"}`,
		"channel_id=%41", "channel_id=a&channel_id=b", "channel_id=+ =#", "channel_id=\n\x00\x7f", "channel_id=ä😀", "a&b=c=d")
	f(jsonType, "{\"\\u0063hannel\\\"s\\\\\" : [ \"a\\\"]\" , 1 ],\"b\":\"}\"}", "channel\"s\\=a\"]", "channel\"s\\=1", "b=}")
	f(jsonType, `{}`)
	f(jsonType, `{"channels":[]}`)
}

func TestParametersOfTheBodyFollowThoseOfTheQuery(t *testing.T) {
	request := strings.Replace(post(formType, "channel_id=b&start=none"), "/connect", "/connect?channel_id=a&start=id", 1)
	req, _, err := readPost(t, request)
	require.NoError(t, err)
	require.Equal(t, "channel_id=a&start=id", string(req.Query), "as sent")
	channels, err := ChannelIDs(nil, req.Params, 9)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, channels)
	o, err := ParseOptions(req.Params, 1)
	require.NoError(t, err)
	require.Equal(t, StartID, o.Start)
}

func TestBodiesThatAreRefused(t *testing.T) {
	f := func(want error, request string) {
		t.Helper()
		_, n, err := readPost(t, request)
		require.ErrorIs(t, err, want, "%.200q", request)
		require.Zero(t, n)
	}
	f(ErrBodyType, post("text/plain;charset=UTF-8", "{}"))
	f(ErrBodyType, post("multipart/form-data; boundary=x", "--x--"))
	f(ErrNoBodyType, post("", "a=b"))
	f(ErrBodyType, post("application/jsonp", "{}"))
	f(ErrNoBodyType, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n")
	f(ErrContentCoding, post(jsonType, "{}", "Content-Encoding: gzip"))
	f(ErrBodyTooLarge, "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: "+jsonType+"\r\nContent-Length: 65537\r\n\r\n")
	f(ErrBodyTooLarge, postChunks(formType, strings.Repeat("a", 65<<10), 4<<10))
	f(ErrBodyTooLarge, postChunks(formType, strings.Repeat("a", 12<<10), 1)) // 6 bytes for each
	f(ErrBadForm, post(formType, "channel_id=a\n"))
	f(ErrBadForm, post(formType, "channel_id=a\tb"))
	for _, body := range []string{
		`[]`, `"a"`, `null`, ` `, `{`, `{"channels":["a"}`, `{"channels":["a"]`, `{"channels":"a"}{}`, `{"channels":"a"} x`,
		`{"channels":[["a"]]}`, `{"channels":{"a":1}}`, `{"channels":true}`, `{"x":false}`, `{"channels":"a","channels":"b"}`,
		`{'channels':'a'}`, `{"channels":"a",}`, "{\"channels\":\"\xff\"}", `{"channels":01}`, `{channels:"a"}`,
		`{"channels":[` + strings.Repeat("[", 60_000),
	} {
		f(ErrBadJSON, post(jsonType, body))
	}
	head := "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: " + formType + "\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, chunks := range []string{
		"\r\n", "x\r\n", " 3\r\n", "3 \r\nabc\r\n", "3 ;x\r\n", "-3\r\n", "0x3\r\n", "3\nabc", "3\r\nabcde", "3\r\nabc\nx", "3\r\nabc\r0",
		";a=b\r\n", "3;a\nb\r\n", "0\r\nTrailer: a\n", "0\r\nTrailer\r\n\r\n", "0\r\n Trailer: a\r\n\r\n", strings.Repeat("0", 300), "3;" + strings.Repeat("x", 300), "0\r\n" + strings.Repeat("x", 300),
	} {
		f(ErrBadChunk, head+chunks)
	}
	f(ErrBodyTooLarge, head+"fffffffffffffffffffffff\r\n")
	f(ErrBodyTooLarge, head+"10001\r\n")
	f(ErrBodyTooLarge, head+"0\r\n"+strings.Repeat("Trailer: a\r\n", 6_000))
}

func TestBodyOfExactlyTheLimitIsRead(t *testing.T) {
	body := "channel_id=a&x=" + strings.Repeat("x", MaxBodyBytes-len("channel_id=a&x="))
	req, n, err := readPost(t, post(formType, body))
	require.NoError(t, err)
	require.Equal(t, MaxBodyBytes, n)
	require.Equal(t, body, string(req.Params))
}

func TestChunkExtensionsAndTrailersMeanNothing(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: " + formType + "\r\nTransfer-Encoding: chunked\r\n\r\n"
	req, n, err := readPost(t, head+"a;name=\"v\"\r\nchannel_id\r\n002;x\r\n=a\r\n000\r\nchannel_id: b\r\nHost: c\r\n\r\nGET / HTTP/1.1\r\n")
	require.NoError(t, err)
	require.Equal(t, "channel_id=a", string(req.Params))
	require.Equal(t, len("a;name=\"v\"\r\nchannel_id\r\n002;x\r\n=a\r\n000\r\nchannel_id: b\r\nHost: c\r\n\r\n"), n, "what follows is not of the body")
}

// A body that comes byte by byte is looked at again only when it is whole, or wrong.
func TestGrowingBodyIsReadOnce(t *testing.T) {
	for _, request := range []string{post(formType, "channel_id=a"), postChunks(formType, "channel_id=a", 3)} {
		req, head, err := ParseRequest([]byte(request), Limits{})
		require.NoError(t, err)
		body, scan := []byte(request[head:]), new(BodyScan)
		n, err := req.ReadBody(nil, scan)
		require.NoError(t, err)
		require.Zero(t, n)
		for i := range body[1:] {
			require.False(t, scan.Ready(body[:i]), "%q", body[:i])
		}
		require.True(t, scan.Ready(body))
		n, err = req.ReadBody(body, scan)
		require.NoError(t, err)
		require.Equal(t, len(body), n)
		require.Equal(t, "channel_id=a", string(req.Params))
	}
}

func TestThousandChannelsAreEachThereOnce(t *testing.T) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("%08d-0000-4000-8000-%012d", i, i))
	}
	list, err := json.Marshal(map[string]any{"channels": append(names, names...)[:1500]})
	require.NoError(t, err)
	form := url.Values{"channel_id": names}.Encode()
	for _, request := range []string{post(jsonType, string(list)), post(formType, form), postChunks(formType, form, 100<<10>>1)} {
		req, _, err := readPost(t, request)
		require.NoError(t, err)
		channels, err := ChannelIDs(nil, req.Params, 1000)
		require.NoError(t, err)
		require.Equal(t, names, channels)
		_, err = ChannelIDs(nil, req.Params, 999)
		require.ErrorIs(t, err, ErrTooManyChannels)
	}
}

// What a body says does not depend on how it comes, and where net/http reads one too, it
// is the same.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		"channel_id=a&channel_id=%42", `{"channels":["a","b\n"],"last":5}`, "", "a=\t", `{"a":[null,1,"x"],"b":{}}`,
	} {
		for _, contentType := range []string{formType, jsonType} {
			f.Add([]byte(post(contentType, body)), uint16(3))
			f.Add([]byte(postChunks(contentType, body, 4)), uint16(2))
		}
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: h\r\nContent-Type: "+formType+"\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\na: b\r\n\r\nx"), uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		req, head, err := ParseRequest(b, Limits{})
		if err != nil || head == 0 || !req.HasBody() {
			return
		}
		whole := req
		n, err := whole.ReadBody(b[head:], new(BodyScan))
		require.LessOrEqual(t, n, max(MaxBodyBytes, int(size)))

		inParts, scan := req, new(BodyScan)
		var partN int
		var partErr error
		for end := head; ; end = min(end+int(size)+1, len(b)) {
			if end == head || scan.Ready(b[head:end]) {
				partN, partErr = inParts.ReadBody(b[head:end], scan)
			}
			if partN > 0 || partErr != nil || end == len(b) {
				break
			}
		}
		require.Equal(t, err, partErr)
		require.Equal(t, n, partN)
		require.Equal(t, whole.Params, inParts.Params)
		if n == 0 {
			require.Equal(t, req.Query, whole.Params)
			return
		}
		theirs, theirErr := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(b[:head+n], "\r\n"))))
		if theirErr != nil {
			return
		}
		body, theirErr := io.ReadAll(theirs.Body)
		require.NoError(t, theirErr, "what is whole here is whole there")
		rest := whole.Params
		if len(req.Query) > 0 {
			rest = bytes.TrimPrefix(bytes.TrimPrefix(rest, req.Query), []byte{'&'})
		}
		mediaType, _, _ := strings.Cut(theirs.Header.Get("Content-Type"), ";")
		if !strings.EqualFold(strings.TrimSpace(mediaType), jsonType) {
			require.Equal(t, string(body), string(rest))
			return
		}
		requireSameMembers(t, body, rest)
	})
}

// requireSameMembers compares the members of an object, as encoding/json reads it, with
// the parameters that were made of it.
func requireSameMembers(t *testing.T, body, params []byte) {
	t.Helper()
	var object map[string]any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	require.NoError(t, d.Decode(&object))
	want, got := map[string]int{}, map[string]int{}
	for name, value := range object {
		if name == MemberChannels {
			name = ParamChannelID
		}
		list, isList := value.([]any)
		if !isList {
			list = []any{value}
		}
		for _, one := range list {
			if one != nil {
				want[name+"\x00"+fmt.Sprint(one)]++
			}
		}
	}
	require.NoError(t, CheckQuery(params))
	require.Negative(t, indexCTL(params))
	for name, value := range QueryParams(params) {
		got[string(AppendUnescaped(nil, name))+"\x00"+string(AppendUnescaped(nil, value))]++
	}
	require.Equal(t, want, got)
}

func BenchmarkReadBody(b *testing.B) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("%08d-0000-4000-8000-%012d", i, i))
	}
	list, err := json.Marshal(map[string]any{"channels": names})
	require.NoError(b, err)
	for name, request := range map[string]string{
		"form": post(formType, url.Values{"channel_id": names}.Encode()), "json": post(jsonType, string(list)),
	} {
		b.Run(name+"/channels=1000", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req, n, err := ParseRequest([]byte(request), Limits{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := req.ReadBody([]byte(request[n:]), new(BodyScan)); err != nil {
					b.Fatal(err)
				}
				if _, err := ChannelIDs(nil, req.Params, 1000); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
