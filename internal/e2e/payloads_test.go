//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// payload is what PUBLISH carries and what a client ends up with.
type payload struct{ name, sent, got string }

// delivered applies the rule of the vectors: invalid UTF-8 becomes U+FFFD, CR and CRLF
// become LF.
func delivered(sent string) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.ToValidUTF8(sent, "\uFFFD"))
}

// same compares with runs of U+FFFD as one: decoders differ in how many they make of
// a bad sequence.
func same(got, want string) bool {
	return squeeze(got) == squeeze(want)
}

func squeeze(s string) string {
	var b strings.Builder
	var last rune
	for _, r := range s {
		if r != utf8.RuneError || last != utf8.RuneError {
			b.WriteRune(r)
		}
		last = r
	}
	return b.String()
}

// vectors are the shared payload cases.
func vectors(t testing.TB) (list []payload) {
	t.Helper()
	raw, err := os.ReadFile("../../sseproto/testdata/sse_payloads.json")
	require.NoError(t, err)
	var file struct {
		Cases []struct {
			ID, B64      string
			Text, Expect *string
			Repeat       []any
		}
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	for _, c := range file.Cases {
		p := payload{name: c.ID}
		switch {
		case c.Text != nil:
			p.sent = *c.Text
		case c.B64 != "":
			b, err := base64.StdEncoding.DecodeString(c.B64)
			require.NoError(t, err)
			p.sent = string(b)
		default:
			p.sent = strings.Repeat(c.Repeat[0].(string), int(c.Repeat[1].(float64)))
		}
		p.got = delivered(p.sent)
		if c.Expect != nil {
			p.got = *c.Expect
		}
		list = append(list, p)
	}
	require.Len(t, list, 42)
	return list
}

// basics are payloads that every client and every publisher must carry.
var basics = []string{
	`{"text": "Hello!"}`,
	"grüße 世界 🚀",
	"two\nlines",
	"a\n\nblank line, and a last one\n",
	"data: x\nid: 7\n\nevent: y",
	"looks like\r\nHTTP/1.1 200 OK\r\n\r\n",
	strings.Repeat("long ", 20_000),
}

// binary is basics with bytes that are not text.
var binary = append([]string{
	"\x00\x01 zero and one",
	"bad \xff\xfe\xe4\xb8 utf-8",
	"caf\xe9",
}, basics...)
