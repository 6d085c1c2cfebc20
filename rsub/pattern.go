package rsub

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"ssed/sseproto"
)

// reservedPrefix begins the channels that are never counted nor delivered: the
// control channel, keyspace events, those of sentinels.
const reservedPrefix = "__"

// numbering is the version of the rules by which messages get their numbers.
// Instances with different rules must not share a clock: raise it when what is
// counted, or in which order, changes.
const numbering = 1

// Reserved reports whether a channel is never counted nor delivered.
func Reserved(channel string) bool {
	return len(channel) >= 2 && channel[0] == '_' && channel[1] == '_'
}

// patternSet is the sorted list of distinct patterns of a feed.
type patternSet []string

func newPatternSet(patterns []string) patternSet {
	return slices.Compact(slices.Sorted(slices.Values(patterns)))
}

// canonical reports whether, of the copies of a message that Redis sends for
// each matching pattern, the one for this pattern is the one that counts: the
// one for the first pattern of the sorted list that matches. With one pattern
// there is one copy and nothing to match.
func (ps patternSet) canonical(pattern, channel string) bool {
	if len(ps) == 1 {
		return true
	}
	for _, p := range ps {
		if p == pattern {
			return true
		}
		if sseproto.MatchGlob(p, channel) {
			return false
		}
	}
	return false
}

// match reports whether messages of the channel come in.
func (ps patternSet) match(channel string) bool {
	return slices.ContainsFunc(ps, func(p string) bool { return sseproto.MatchGlob(p, channel) })
}

// describe returns the readable form of all that decides which messages are
// counted, and as which events they are delivered.
func (ps patternSet) describe(r Rules) string {
	quoted := make([]string, len(ps))
	for i, p := range ps {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	text := fmt.Sprintf("numbering=%d exclude=%q patterns=[%s]", numbering, reservedPrefix+"*", strings.Join(quoted, " "))
	if r.Envelope {
		text += " envelope=json"
	}
	if r.Sharded {
		text += " feed=sharded"
	}
	if r.Partitions > 1 {
		text += fmt.Sprintf(" partitions=%d", r.Partitions)
	}
	if r.BatchChannel != "" {
		text += fmt.Sprintf(" batches=%q", r.BatchChannel)
	}
	return text
}

// Rules are what instances have to have in common, beside the patterns, to number and
// to deliver alike. See the fields of Config.
type Rules struct {
	Envelope     bool
	Sharded      bool
	BatchChannel string
	Partitions   int // 0 is 1
}

// Fingerprint returns what Feed.Fingerprint does, for a feed that is not there.
func Fingerprint(patterns []string, r Rules) (short, readable string) {
	readable = newPatternSet(patterns).describe(r)
	return fingerprint(readable), readable
}

// fingerprint returns the short form of a description that goes with each tick.
func fingerprint(description string) string {
	sum := sha256.Sum256([]byte(description))
	return hex.EncodeToString(sum[:8])
}
