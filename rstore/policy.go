package rstore

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"ssed/internal/invalid"
	"ssed/sseproto"
)

// Policy says what is kept of the channels that Match matches. Zero fields mean what
// Config says for all channels.
type Policy struct {
	// Match is a glob as for PSUBSCRIBE, in UTF-8.
	Match string
	// Off: nothing is written of these channels. A client that resumes from before what
	// memory holds is told (sseproto.ReasonNotKept).
	Off    bool
	MaxLen int           // as Config.MaxLen
	Window time.Duration // as Config.Window; negative: MaxLen alone counts
	TTL    time.Duration // as Config.TTL
}

// Bounds of policies: the writer tries them one after the other on every message.
const (
	maxPolicies   = 64
	maxMatchBytes = 256
)

func (c *Config) checkPolicies(check *invalid.Check) {
	check.If(len(c.Policies) > maxPolicies, "Policies", "%d are more than %d", len(c.Policies), maxPolicies)
	seen := map[string]bool{}
	for _, p := range c.Policies {
		complain := func(bad bool, format string, args ...any) {
			check.If(bad, "Policies", "%.70q: "+format, append([]any{p.Match}, args...)...)
		}
		complain(p.Match == "" || len(p.Match) > maxMatchBytes || !utf8.ValidString(p.Match), "the pattern is not 1 to %d bytes of UTF-8", maxMatchBytes)
		complain(seen[p.Match], "it is there twice, and the first one counts")
		seen[p.Match] = true
		complain(p.MaxLen < 0, "history-max: %d is less than 1", p.MaxLen)
		complain(p.TTL < 0 || p.TTL > 0 && p.TTL < time.Millisecond, "history-ttl: %v is less than 1ms", p.TTL)
		complain(p.Off && (p.MaxLen != 0 || p.TTL != 0 || p.Window != 0), "history: off keeps nothing, whatever else the policy says of the history")
	}
}

// policies are those of a Config, filled in. The last one is Config's own, for all
// channels that no other matches.
type policies struct {
	list []policy
	text string // for the clock, see common.lua; "" when there is only one
}

type policy struct {
	Policy
	cap int
}

// policies fills them in. C has its defaults.
func (c *Config) policies() policies {
	var all policies
	words := [][2]any{}
	for _, p := range append(c.Policies[:len(c.Policies):len(c.Policies)], Policy{Match: "*"}) {
		p.MaxLen = cmp.Or(p.MaxLen, c.MaxLen)
		p.TTL = cmp.Or(p.TTL, c.TTL)
		p.Window = cmp.Or(p.Window, c.Window)
		p.Window = max(p.Window, 0)
		all.list = append(all.list, policy{p, max(c.Cap, p.MaxLen)})
		words = append(words, [2]any{p.Match, p.keptMs()})
	}
	if len(words) > 1 {
		text, err := json.Marshal(words)
		if err != nil {
			panic(err) // text and numbers always have a JSON form
		}
		all.text = string(text)
	}
	return all
}

// keptMs is for how long the history has a message: 0 for not at all.
func (p *Policy) keptMs() int64 {
	if p.Off {
		return 0
	}
	return max(1, p.TTL.Milliseconds())
}

// of is the place of a channel's policy. It costs a glob for each before it.
func (p *policies) of(channel string) int {
	last := len(p.list) - 1
	for i := range p.list[:last] {
		if sseproto.MatchGlob(p.list[i].Match, channel) {
			return i
		}
	}
	return last
}

// leastTTL is what instances of versions without policies have to reckon with for every
// channel.
func (p *policies) leastTTL() time.Duration {
	least := p.list[len(p.list)-1].TTL
	for i := range p.list {
		least = min(least, time.Duration(p.list[i].keptMs())*time.Millisecond)
	}
	return least
}

// LongestTTL is how long the key of a stream may live behind its last message.
func (s *Store) LongestTTL() (longest time.Duration) {
	for i := range s.policies.list {
		longest = max(longest, s.policies.list[i].TTL)
	}
	return longest
}

// caps are the most entries of a stream under each policy.
func (p *policies) caps() string {
	words := make([]string, len(p.list))
	for i := range p.list {
		words[i] = strconv.Itoa(p.list[i].cap)
	}
	return strings.Join(words, " ")
}

// forBatch is what append.lua gets of policies that are not the last one: their settings,
// and which one each entry has, counted from 1. Most batches have none.
func (p *policies) forBatch(entries []entry) (settings, chosen string) {
	usual := len(p.list) - 1
	numbers, n := make([]int, usual), 0
	var table, which strings.Builder
	for i, e := range entries {
		number := 0
		if e.policy != usual {
			if numbers[e.policy] == 0 {
				if n == 0 {
					which.WriteString(strings.Repeat("0 ", i))
				}
				n++
				numbers[e.policy] = n
				q := &p.list[e.policy]
				fmt.Fprintf(&table, "%d %s %d %d ", q.MaxLen, millis(q.TTL), q.Window.Milliseconds(), q.cap)
			}
			number = numbers[e.policy]
		}
		if n > 0 {
			which.WriteString(strconv.Itoa(number))
			which.WriteByte(' ')
		}
	}
	return table.String(), which.String()
}

// keeping is what the clock says of the channels: which are kept for how long, and up to
// where absence proves nothing whatever the time is.
type keeping struct {
	policies []keptFor
	floors   []floor
}

type keptFor struct {
	match string
	ms    uint64 // 0: no history
}

// floor is for all channels that match: below absent a missing stream proves nothing,
// below unkept messages are missing in streams that are there.
type floor struct {
	match          string
	absent, unkept sseproto.ID
}

// parseKeeping reads what common.lua has written. Its fields are there together.
func parseKeeping(policies, floors string) (k keeping, err error) {
	var list [][2]any
	if err := json.Unmarshal([]byte(policies), &list); err != nil {
		return k, fmt.Errorf("rstore: policies of the clock: %w", err)
	}
	for _, words := range list {
		match, isText := words[0].(string)
		ms, isNumber := words[1].(float64)
		if !isText || !isNumber {
			return k, fmt.Errorf("rstore: policies of the clock: %.200q", policies)
		}
		k.policies = append(k.policies, keptFor{match, uint64(ms)})
	}
	var triples [][3]string
	if err := json.Unmarshal([]byte(floors), &triples); err != nil {
		return k, fmt.Errorf("rstore: policy_floors of the clock: %w", err)
	}
	for _, words := range triples {
		f := floor{match: words[0]}
		if f.absent, err = sseproto.ParseID(words[1]); err == nil {
			f.unkept, err = sseproto.ParseID(words[2])
		}
		if err != nil {
			return k, fmt.Errorf("rstore: policy_floors of the clock: %w", err)
		}
		k.floors = append(k.floors, f)
	}
	return k, nil
}

// of returns, for a channel at a time, the position below which a missing stream proves
// nothing, the one up to which messages were not kept, and whether none are kept now.
func (k *keeping) of(channel string, now uint64) (absent, unkept sseproto.ID, off bool) {
	for _, f := range k.floors {
		if matchesAll(f.match) || sseproto.MatchGlob(f.match, channel) {
			absent, unkept = later(absent, f.absent), later(unkept, f.unkept)
		}
	}
	for _, p := range k.policies {
		if !matchesAll(p.match) && !sseproto.MatchGlob(p.match, channel) {
			continue
		}
		if p.ms == 0 {
			return absent, unkept, true
		}
		if now > p.ms {
			absent = later(absent, sseproto.ID{Ms: now - p.ms})
		}
		return absent, unkept, false
	}
	return absent, unkept, false // not from here: the last one matches all
}

func matchesAll(match string) bool { return match == "*" }
