package sseproto

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// payloadCase is one of testdata/sse_payloads.json.
type payloadCase struct {
	ID      string
	Text    *string
	B64     string
	Repeat  []any
	Expect  *string
	Invalid bool
}

func (c payloadCase) payload(t *testing.T) string {
	t.Helper()
	switch {
	case c.Text != nil:
		return *c.Text
	case c.B64 != "":
		raw, err := base64.StdEncoding.DecodeString(c.B64)
		require.NoError(t, err)
		return string(raw)
	}
	require.Len(t, c.Repeat, 2, c.ID)
	return strings.Repeat(c.Repeat[0].(string), int(c.Repeat[1].(float64)))
}

// want is the data a client ends up with, by the rule of the file.
func (c payloadCase) want(payload string) string {
	if c.Expect != nil {
		return *c.Expect
	}
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.ToValidUTF8(payload, replacement))
}

func loadPayloads(t testing.TB) []payloadCase {
	t.Helper()
	var file struct{ Cases []payloadCase }
	readVectors(t, "testdata/sse_payloads.json", &file)
	require.Len(t, file.Cases, 42)
	return file.Cases
}

// requestCase is one of testdata/http_requests.json.
type requestCase struct {
	ID      string
	Level   string
	Send    []any
	Accept  []string
	Channel string
}

func loadRequests(t testing.TB) []requestCase {
	t.Helper()
	var file struct{ Cases []requestCase }
	readVectors(t, "testdata/http_requests.json", &file)
	require.Len(t, file.Cases, 205)
	return file.Cases
}

// bytes is all that the case sends; closed tells that the client half-closes after it.
func (c requestCase) bytes(t testing.TB) (sent []byte, closed bool) {
	t.Helper()
	for _, step := range c.Send {
		switch step := step.(type) {
		case string:
			sent = append(sent, expandLatin1(t, step)...)
		case map[string]any:
			if text, ok := step["bytewise"].(string); ok {
				sent = append(sent, expandLatin1(t, text)...)
			}
			closed = closed || step["fin"] == true
		}
	}
	return sent, closed
}

// allows reports whether one of the accepted outcomes begins with a response that
// matches.
func (c requestCase) allows(match func(first string) bool) bool {
	for _, outcome := range c.Accept {
		first, _, _ := strings.Cut(outcome, "+")
		if match(strings.TrimSuffix(first, "!")) {
			return true
		}
	}
	return false
}

var repeated = regexp.MustCompile(`(?s)<<(\d+)\*(.*?)>>`)

// expandLatin1 makes each character one byte, and repeats what is to be repeated.
func expandLatin1(t testing.TB, text string) []byte {
	t.Helper()
	text = repeated.ReplaceAllStringFunc(text, func(m string) string {
		parts := repeated.FindStringSubmatch(m)
		n, err := strconv.Atoi(parts[1])
		require.NoError(t, err)
		return strings.Repeat(parts[2], n)
	})
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xFF {
			t.Fatalf("%q is not one byte", r)
		}
		out = append(out, byte(r))
	}
	return out
}

func readVectors(t testing.TB, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into))
}
