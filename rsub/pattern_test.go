package rsub

import (
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// discard is a Sink that keeps nothing.
type discard struct{}

func (discard) OpenSpan(sseproto.ID)               {}
func (discard) Append(sseproto.ID, string, string) {}
func (discard) Commit(_, _ sseproto.ID)            {}
func (discard) Oversize(sseproto.ID, string)       {}
func (discard) CloseSpan(sseproto.ID)              {}

func pubsub(pattern, channel, payload string) rueidis.PubSubMessage {
	return rueidis.PubSubMessage{Pattern: pattern, Channel: channel, Message: payload}
}

func TestOneCopyOfEachMessageIsCanonical(t *testing.T) {
	f := func(channel string, patterns ...string) {
		t.Helper()
		ps := newPatternSet(patterns)
		copies, counted := 0, 0
		for _, p := range ps {
			if sseproto.MatchGlob(p, channel) {
				copies++
				if ps.canonical(p, channel) {
					counted++
				}
			}
		}
		require.Positive(t, copies)
		require.Equal(t, 1, counted, "%q %q", channel, patterns)
	}
	f("a", "*")
	f("a", "*", "*")
	f("sse:1", "sse:*", "*", "s?e:*", "[s]se:1")
	f("other", "sse:*", "*")
	f("b:1", "a:*", "b:*")
}

func TestFingerprintIsOfTheSetOfPatterns(t *testing.T) {
	f := func(p ...string) string { return fingerprint(newPatternSet(p).describe(Rules{})) }
	require.Equal(t, f("a", "b"), f("b", "a", "b"))
	require.NotEqual(t, f("a", "b"), f("a"))
	require.NotEqual(t, f("a b"), f("a", "b"))
	require.NotEqual(t, f(`a" "b`), f("a", "b"))
	require.NotEqual(t, f("a"), fingerprint(patternSet{"a"}.describe(Rules{Envelope: true})))
	require.NotEqual(t, f("a"), fingerprint(patternSet{"a"}.describe(Rules{Sharded: true})))
	require.NotEqual(t, f("a"), fingerprint(patternSet{"a"}.describe(Rules{BatchChannel: "b"})))
}

func TestNewNamesEveryProblem(t *testing.T) {
	_, err := New(Config{
		Client:   rueidis.ClientOption{AlwaysRESP2: true},
		Patterns: []string{"", "__keyspace*"}, Prefix: "a{b", Instance: "two words",
		Feeds: 3, TickInterval: 1, ProbeTimeout: 1, MaxMessageBytes: -1,
	}, discard{})
	for _, part := range []string{"Client: no Redis address", "Client: protocol 2", `Patterns: ""`, `Patterns: "__keyspace*"`, "Prefix", "Instance", "Feeds", "TickInterval", "ProbeTimeout", "MaxMessageBytes"} {
		require.ErrorContains(t, err, "rsub: "+part)
	}
	_, err = New(Config{}, discard{})
	require.ErrorContains(t, err, "rsub: Patterns: no pattern given")
}
