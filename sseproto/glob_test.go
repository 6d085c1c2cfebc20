package sseproto

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

func TestMatchGlob(t *testing.T) {
	f := func(pattern, s string, want bool) {
		t.Helper()
		require.Equal(t, want, MatchGlob(pattern, s), "%q on %q", pattern, s)
	}
	f("*", "sse:user", true)
	f("*", "", false)
	f("", "", true)
	f("", "a", false)
	f("sse:*", "sse:", true)
	f("sse:*", "sse", false)
	f("h?llo", "hello", true)
	f("h?llo", "hllo", false)
	f("H?llo", "hello", false)
	f("*ab*ab", "abaab", true)
	f("a**b", "ab", true)
	f("[abc]", "b", true)
	f("[^abc]", "b", false)
	f("[^abc]", "d", true)
	f("[c-a]", "b", true)
	f("[]", "]", false)
	f("[^]", "x", true)
	f("[\\]]", "]", true)
	f("[a", "a", true)
	f("[^", "x", true)
	f("[a-", "-", true)
	f("[a-]", "^", true)
	f("\\*", "*", true)
	f("\\*", "a", false)
	f("\\", "\\", true)
	f("a\\", "a\\", true)
	f("[a-\xff]", "\x80", false)
	f("[a-\xff]", "A", true)
}

// Matching must not take the time that trying all ways to divide s would: this would
// not end within the age of the machine.
func TestManyStarsDoNotExplode(t *testing.T) {
	require.False(t, MatchGlob(strings.Repeat("*a", 200)+"b", strings.Repeat("a", 5000)))
	require.False(t, MatchGlob(strings.Repeat("*[a-z]?", 50)+"*\\b", strings.Repeat("a", 5000)))
}

// TestGlobAgreesWithRedis subscribes to many names on a private server and compares
// which of them PUBSUB CHANNELS finds for a pattern.
func TestGlobAgreesWithRedis(t *testing.T) {
	server := redistest.Start(t)
	names := globNames()
	subscribeTo(t, server.Addr(), names)
	for _, pattern := range globPatterns() {
		reply, err := server.Do("PUBSUB", "CHANNELS", pattern)
		require.NoError(t, err)
		var theirs, ours []string
		for _, name := range reply.([]any) {
			theirs = append(theirs, name.(string))
		}
		for _, name := range names {
			if MatchGlob(pattern, name) {
				ours = append(ours, name)
			}
		}
		slices.Sort(theirs)
		slices.Sort(ours)
		require.Equal(t, theirs, ours, "pattern %q", pattern)
	}
}

const globAlphabet = "ab-]^[\\*?\x80\xff\x00"

// globNames are all names of up to two octets of the alphabet and some longer ones.
func globNames() []string {
	names := []string{"", "sse:user:1", "sse:", "hello", "aaaaaaaaaaaaaaaaaaab", "user ✓"}
	for i := range len(globAlphabet) {
		names = append(names, globAlphabet[i:i+1])
		for j := range len(globAlphabet) {
			names = append(names, string([]byte{globAlphabet[i], globAlphabet[j]}))
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		names = append(names, randomText(rnd, 3+rnd.IntN(6)))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func globPatterns() []string {
	patterns := []string{"", "*", "sse:*", "*:1", "h[a-f]llo", "h[^a-f]llo", "*a*a*a*b", "*✓", "***", "\\", "[", "[^", "[a-", "a*[^"}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 4000 {
		patterns = append(patterns, randomText(rnd, 1+rnd.IntN(9)))
	}
	return patterns
}

func randomText(rnd *rand.Rand, n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = globAlphabet[rnd.IntN(len(globAlphabet))]
	}
	return string(text)
}

// subscribeTo subscribes a connection of its own to names for the length of the test
// and returns when the server has confirmed all.
func subscribeTo(t *testing.T, addr string, names []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	var command, answer strings.Builder
	fmt.Fprintf(&command, "*%d\r\n$9\r\nSUBSCRIBE\r\n", len(names)+1)
	for i, name := range names {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(name), name)
		fmt.Fprintf(&answer, "*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:%d\r\n", len(name), name, i+1)
	}
	_, err = io.WriteString(conn, command.String())
	require.NoError(t, err)
	got := make([]byte, answer.Len())
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, answer.String(), string(got))
}

// globElement is what one element of a pattern matches; star elements match any octets.
type globElement struct {
	star bool
	set  [256]bool
}

// globModel says what MatchGlob should, in another way: the pattern is turned into
// elements first, then all positions that each can end at are kept.
func globModel(pattern, s string) bool {
	if s == "" {
		return pattern == ""
	}
	at := make([]bool, len(s)+1)
	at[0] = true
	for _, e := range globElements(pattern) {
		next := make([]bool, len(s)+1)
		for i := range at {
			if e.star {
				next[i] = at[i] || i > 0 && next[i-1]
			} else {
				next[i] = i > 0 && at[i-1] && e.set[s[i-1]]
			}
		}
		at = next
	}
	return at[len(s)]
}

func globElements(p string) (elements []globElement) {
	for len(p) > 0 {
		var e globElement
		switch {
		case p[0] == '*':
			e.star, p = true, p[1:]
		case p[0] == '?':
			for c := range e.set {
				e.set[c] = true
			}
			p = p[1:]
		case p[0] == '[':
			p = globClass(p[1:], &e)
		case p[0] == '\\' && len(p) > 1:
			e.set[p[1]], p = true, p[2:]
		default:
			e.set[p[0]], p = true, p[1:]
		}
		elements = append(elements, e)
	}
	return elements
}

// globClass reads a class after its bracket and returns what follows it.
func globClass(p string, e *globElement) string {
	not := strings.HasPrefix(p, "^")
	p = strings.TrimPrefix(p, "^")
	for p != "" && p[0] != ']' {
		if p[0] == '\\' && len(p) > 1 {
			e.set[p[1]], p = true, p[2:]
			continue
		}
		if len(p) > 2 && p[1] == '-' {
			from, to := int(int8(p[0])), int(int8(p[2]))
			for c := min(from, to); c <= max(from, to); c++ {
				e.set[byte(c)] = true
			}
			p = p[3:]
			continue
		}
		e.set[p[0]], p = true, p[1:]
	}
	for c := range e.set {
		e.set[c] = e.set[c] != not
	}
	return strings.TrimPrefix(p, "]")
}

func FuzzGlob(f *testing.F) {
	for _, p := range []string{"*", "a*b?", "[^a-c]*", "[z-a]\\*", "[a-", "\\", "*[]"} {
		f.Add(p, "abc")
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern)*len(s) > 1<<16 {
			return
		}
		require.Equal(t, globModel(pattern, s), MatchGlob(pattern, s))
	})
}
