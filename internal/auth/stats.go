package auth

import "sync/atomic"

// Reason names why a client was refused; the label of the counter.
type Reason uint8

// The reasons, in the order of Stats.Refused.
const (
	RefusedList      Reason = iota // a channel is not on the allow list, or on the deny list
	RefusedNoToken                 // no token came
	RefusedMalformed               // not a token, or two Authorization fields
	RefusedSignature               // signature, algorithm or key ID are wrong
	RefusedExpired                 // exp is over
	RefusedNotYet                  // nbf is to come
	RefusedAudience                // aud or iss are others, or missing
	RefusedClaims                  // another claim is wrong
	RefusedChannels                // the token, or the answer of the service, does not cover the channels
	RefusedKeys                    // no keys could be had
	RefusedService                 // the service said no
	RefusedFailure                 // the service gave no usable answer
	RefusedQueue                   // too many were waiting
	numReasons
)

var reasonNames = [numReasons]string{
	"list", "no-token", "malformed", "signature", "expired", "not-yet", "audience", "claims",
	"channels", "keys", "service", "failure", "queue",
}

// String is the name of the reason in metrics.
func (r Reason) String() string { return reasonNames[r] }

// Reasons lists all reasons, in the order of Stats.Refused.
func Reasons() []Reason {
	all := make([]Reason, numReasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

type counters struct {
	granted     atomic.Uint64
	cached      atomic.Uint64
	asked       atomic.Uint64
	keyFetches  atomic.Uint64
	keyFailures atomic.Uint64
	refused     [numReasons]atomic.Uint64
}

// Stats is a snapshot of the counters.
type Stats struct {
	Granted     uint64             // requests admitted
	Refused     [numReasons]uint64 // requests refused, by Reason
	Cached      uint64             // decided by the cache of forward auth
	Asked       uint64             // requests to the service of forward auth
	KeyFetches  uint64             // attempts to fetch the key set
	KeyFailures uint64             // those of them that failed
}

func (c *counters) snapshot() Stats {
	s := Stats{
		Granted:     c.granted.Load(),
		Cached:      c.cached.Load(),
		Asked:       c.asked.Load(),
		KeyFetches:  c.keyFetches.Load(),
		KeyFailures: c.keyFailures.Load(),
	}
	for i := range c.refused {
		s.Refused[i] = c.refused[i].Load()
	}
	return s
}
