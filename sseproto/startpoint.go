package sseproto

import (
	"strconv"
	"strings"
	"time"
)

// StartKind is a way to say where a new stream starts.
type StartKind uint8

const (
	FromNow      StartKind = iota // with what comes after the request
	FromEarliest                  // since=earliest: with the oldest message that is kept
	FromTime                      // since=<time>: with the first message published then or later
	FromAge                       // since=<duration>: the same, so long before the request
	FromLast                      // last=<n>: with the n newest messages of each channel
)

// StartPoint is where a new stream starts: a wish, not a position. It has no meaning for a
// client that sends a Last-Event-ID, which goes on from there.
type StartPoint struct {
	Kind StartKind
	// Time is that of FromTime, in wire milliseconds.
	Time uint64
	// Age is that of FromAge, not negative.
	Age time.Duration
	// Count is that of FromLast, at least 1.
	Count int
}

// IsNow reports whether nothing from before the request is wanted.
func (p StartPoint) IsNow() bool { return p.Kind == FromNow }

// maxUnixSeconds is where a bare number stops to be seconds: it is the year 5138 as
// seconds, March 1973 as milliseconds.
const maxUnixSeconds = 100_000_000_000

// StartPointOf makes a StartPoint of the values of since and last, as text; nil is one
// that is not there. MaxLast is the largest last that is allowed.
//
// since is "earliest", a duration as of time.ParseDuration that is not negative, a Unix
// time in seconds or, from 100,000,000,000 on, in milliseconds, or a time of RFC 3339. Its
// "+" may be a space: that is what a "+" in a query means.
//
// Errors are ErrBadSince, ErrBadLast and, for both at once, ErrSinceAndLast, all with
// status 400.
func StartPointOf(since, last []byte, maxLast int) (StartPoint, error) {
	switch {
	case since != nil && last != nil:
		return StartPoint{}, ErrSinceAndLast
	case since != nil:
		return parseSince(string(since))
	case last != nil:
		return parseLast(string(last), maxLast)
	}
	return StartPoint{}, nil
}

func parseSince(s string) (StartPoint, error) {
	switch {
	case s == "earliest":
		return StartPoint{Kind: FromEarliest}, nil
	case s == "" || len(s) > maxValueBytes || s[0] == '-' || s[0] == '+':
		return StartPoint{}, ErrBadSince
	case isDigits(s):
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return StartPoint{}, ErrBadSince
		}
		if n < maxUnixSeconds {
			n *= 1000
		}
		return StartPoint{Kind: FromTime, Time: uint64(n)}, nil
	}
	if age, err := time.ParseDuration(s); err == nil {
		return StartPoint{Kind: FromAge, Age: age}, nil
	}
	if zone := len(s) - len("+00:00"); zone > 0 && s[zone] == ' ' {
		s = s[:zone] + "+" + s[zone+1:]
	}
	at, err := time.Parse(time.RFC3339, strings.ToUpper(s)) // "t" and "z" are allowed, RFC 3339 §5.6
	if err != nil {
		return StartPoint{}, ErrBadSince
	}
	return StartPoint{Kind: FromTime, Time: uint64(max(at.UnixMilli(), 0))}, nil
}

func parseLast(s string, most int) (StartPoint, error) {
	n, err := strconv.Atoi(s)
	if err != nil || !isDigits(s) || n < 1 || n > most {
		return StartPoint{}, errBadLast(most)
	}
	return StartPoint{Kind: FromLast, Count: n}, nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// errBadLast is ErrBadLast with the limit in its text.
func errBadLast(most int) error {
	bad := ErrBadLast.(*ProtocolError)
	return &ProtocolError{Status: bad.Status, text: bad.text + " " + strconv.Itoa(most), of: bad}
}
