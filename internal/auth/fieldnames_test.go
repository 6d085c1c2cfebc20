package auth

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/sseproto"
)

// asVariable is what CGI servers make of a field name: lighttpd, Apache and PHP's own
// server put "_" for every octet that is no letter or digit.
func asVariable(name string) string {
	return "HTTP_" + strings.ToUpper(strings.Map(func(r rune) rune {
		if r < 0x80 && isLetterOrDigit(byte(r)) {
			return r
		}
		return '_'
	}, name))
}

// ourFields are those that the service may believe.
var ourFields = []string{
	"X-SSE-Channels", "X-Original-URI", "X-Original-Method", "X-Forwarded-Uri", "X-Forwarded-Method",
	"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// othersFields are ways to name a client or a request that services look at, too.
var othersFields = []string{
	"Forwarded", "X-Real-IP", "X-Original-URL", "X-Original-Host", "Via", "X-Forwarded-User", "X-Forwarded-Port", "X-Forwarded",
	"True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "Fastly-Client-IP", "X-Client-IP", "Client-IP", "X-Cluster-Client-IP",
	"X-Remote-IP", "X-Remote-Addr", "X-Originating-IP", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-HTTP-Method",
	"Proxy-Client-IP", "WL-Proxy-Client-IP", "X-Visitor-IP", "Ali-CDN-Real-IP", "X-Azure-ClientIP", "X-Azure-SocketIP", "X-Sucuri-ClientIP",
	"CF-Pseudo-IPv4", "Remote-Addr", "X-Vercel-Forwarded-For", "X-Envoy-External-Address", "X-Envoy-Original-Path",
	"X-Method-Override", "X-Host", "Proxy", "X-SSE-Subject", "X-SSE-Expires", "Content-Type", "Content-Length",
}

// variablesOf is the header of the request to the service as a CGI program has it.
func variablesOf(t testing.TB, header http.Header) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for name, values := range header {
		require.Len(t, values, 1, name)
		require.NotContains(t, all, asVariable(name), name)
		all[asVariable(name)] = values[0]
	}
	return all
}

// A client cannot set, for a CGI program, what ssed sets for it.
func TestNoFieldNameOfTheClientFoldsToOneOfOurs(t *testing.T) {
	want := variablesOf(t, forwardHeader(asking(t, "/sse/connect?channel_id=secret")))
	require.Equal(t, "secret", want["HTTP_X_SSE_CHANNELS"])
	require.Equal(t, "192.0.2.7", want["HTTP_X_FORWARDED_FOR"])
	for _, name := range append(append([]string{}, ourFields...), othersFields...) {
		// All the octets that a name may have (RFC 9110 §5.6.2) and that fold.
		for _, octet := range "-!#$%&'*+.^_`|~" {
			for _, line := range []string{
				strings.ReplaceAll(name, "-", string(octet)),
				strings.ToUpper(strings.ReplaceAll(name, "-", string(octet))),
				strings.Replace(name, "-", string(octet), 1),
			} {
				if strings.EqualFold(line, "Content-Length") {
					continue // frames the request: no field to play with
				}
				got := variablesOf(t, forwardHeader(asking(t, "/sse/connect?channel_id=secret", line+": allowed")))
				require.Equal(t, want, got, line)
			}
		}
	}
}

// FuzzFieldNames: whatever a client calls its fields, a CGI program finds in ours what
// ssed has put there.
func FuzzFieldNames(f *testing.F) {
	for _, name := range append(append([]string{}, ourFields...), othersFields...) {
		f.Add(strings.ReplaceAll(name, "-", "~"), "allowed")
		f.Add(strings.ReplaceAll(name, "-", "."), "")
		f.Add(strings.ReplaceAll(name, "-", "_"), "127.0.0.1")
		f.Add(name, "a")
	}
	f.Add("X-SSE-Channels\x00", "a")
	f.Add("X-SSE-Channels ", "a")
	f.Add("Connection", "X-SSE-Channels, X-Forwarded-For")
	f.Add("x--sse--channels", "a")
	request := func(line string) (*sseproto.Request, bool) {
		head := "GET /sse/connect?channel_id=secret HTTP/1.1\r\nHost: sse.example.com\r\n" + line + "\r\n"
		req, n, err := sseproto.ParseRequest([]byte(head), sseproto.Limits{})
		return &req, err == nil && n == len(head)
	}
	header := func(req *sseproto.Request) http.Header {
		return forwardHeader(&engine.AuthRequest{Request: req, Channels: []string{"secret"}, Client: clientAddr})
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		plain, _ := request("")
		want := make(map[string][]string)
		for name, values := range header(plain) {
			want[asVariable(name)] = values
		}
		req, ok := request(name + ": " + value + "\r\n")
		if !ok {
			return
		}
		got := make(map[string][]string)
		for name, values := range header(req) {
			got[asVariable(name)] = append(got[asVariable(name)], values...)
		}
		for _, name := range ourFields {
			switch {
			// What a proxy in front says of TLS, and the host asked for, are the request's.
			case strings.EqualFold(name, "X-Forwarded-Proto"), strings.EqualFold(name, "X-Forwarded-Host"):
				require.LessOrEqual(t, len(got[asVariable(name)]), 1)
			default:
				require.Equal(t, want[asVariable(name)], got[asVariable(name)], name)
			}
		}
		for _, name := range othersFields {
			require.Empty(t, got[asVariable(name)], name)
		}
	})
}
