package ssed

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ssed/engine"
	"ssed/internal/invalid"
	"ssed/rstore"
	"ssed/sseproto"
)

// Policy has the settings for the channels that Match matches: how much is kept, and what a
// reader that is behind gets. A field that is zero means the setting for all channels.
type Policy struct {
	// Match is a glob as in FeedConfig.Patterns, 1 to 256 bytes of UTF-8.
	Match string
	// NoHistory: nothing of these channels is written to Redis. A client that comes back
	// from before what memory holds gets a gap event with the reason not-kept.
	NoHistory bool
	MaxLen    int           // as HistoryConfig.MaxLen
	TTL       time.Duration // as HistoryConfig.TTL
	Window    time.Duration // as HistoryConfig.Window; negative: MaxLen alone counts
	Slow      Slow          // what a reader gets that is behind
}

// Slow says what a reader gets of a channel while it is behind: its socket takes no more, or,
// for SlowLatest, more than 4 KiB lie unread at it. A resume is behind, too.
type Slow = engine.Slow

const (
	SlowAll    = engine.SlowAll    // every message, as long as memory holds it
	SlowLatest = engine.SlowLatest // the newest message alone, without a gap event
	SlowClose  = engine.SlowClose  // nothing: its stream is closed, and it resumes; but not before it has caught up
)

// String is the policy as the flag --policy takes it.
func (p Policy) String() string {
	var words []string
	if p.NoHistory {
		words = append(words, "history:off")
	}
	if p.MaxLen != 0 {
		words = append(words, "history-max:"+strconv.Itoa(p.MaxLen))
	}
	if p.TTL != 0 {
		words = append(words, "history-ttl:"+p.TTL.String())
	}
	if p.Window != 0 {
		words = append(words, "history-window:"+max(p.Window, 0).String())
	}
	if p.Slow != SlowAll {
		words = append(words, "slow:"+p.Slow.String())
	}
	return p.Match + "=" + strings.Join(words, ",")
}

// PolicyOf returns the settings of a channel: the first of Policies that matches it, and for
// its zero fields the settings for all channels. Match is empty when none matches. The times
// and the length are zero without a history.
func (c *Config) PolicyOf(channel string) Policy {
	p, _ := c.policyFor(channel)
	if c.History == nil || c.Redis == nil || p.NoHistory {
		return Policy{Match: p.Match, NoHistory: true, Slow: p.Slow}
	}
	p.MaxLen = cmp.Or(p.MaxLen, c.History.MaxLen, rstore.DefaultMaxLen)
	p.TTL = cmp.Or(p.TTL, c.History.TTL, rstore.DefaultTTL)
	p.Window = cmp.Or(p.Window, c.HistoryWindow())
	p.Window = max(p.Window, 0)
	return p
}

// policyFor is the first policy that matches a channel, as it was given.
func (c *Config) policyFor(channel string) (p Policy, ok bool) {
	for _, p := range c.Policies {
		if sseproto.MatchGlob(p.Match, channel) {
			return p, true
		}
	}
	return p, false
}

// Policy is the one of Config.Policies that holds for a channel. Not ok: none does.
func (g *Gateway) Policy(channel string) (p Policy, ok bool) { return g.cfg.policyFor(channel) }

// longestLen is the largest MaxLen of a policy, or of History: 0 for the default.
func (c *Config) longestLen() int {
	longest := max(c.History.MaxLen, 0)
	for _, p := range c.Policies {
		if p.MaxLen > max(longest, rstore.DefaultMaxLen) {
			longest = p.MaxLen
		}
	}
	return longest
}

// delivery is the part of the policies that the engine has.
func (c *Config) delivery() (list []engine.Policy) {
	for _, p := range c.Policies {
		list = append(list, engine.Policy{Match: p.Match, Slow: p.Slow})
	}
	return list
}

// retention is the part of the policies that the history has.
func (c *Config) retention() (list []rstore.Policy) {
	for _, p := range c.Policies {
		list = append(list, rstore.Policy{Match: p.Match, Off: p.NoHistory, MaxLen: p.MaxLen, TTL: p.TTL, Window: p.Window})
	}
	return list
}

func (c *Config) checkPolicies(check *invalid.Check) {
	for _, p := range c.Policies {
		check.If(p.TTL > 0 && p.TTL < minHistoryTTL, "Policies", "%.70q: history-ttl: %v is less than %v", p.Match, p.TTL, minHistoryTTL)
	}
}

// policyText is all of them, for the comparison of instances.
func (c *Config) policyText() string {
	words := make([]string, len(c.Policies))
	for i, p := range c.Policies {
		words[i] = fmt.Sprintf("%q", p.String())
	}
	return strings.Join(words, " ")
}
