package sseproto

import (
	"bytes"
	"iter"
	"strings"
)

// MaxChannelBytes is the length of the longest channel name, after decoding.
const MaxChannelBytes = 255

// IsChannel reports whether a client can ask for a channel of this name: it is not
// empty, not longer than MaxChannelBytes, and has no NUL.
func IsChannel(name string) bool {
	return len(name) > 0 && len(name) <= MaxChannelBytes && strings.IndexByte(name, 0) < 0
}

// The parameters of the stream path.
const (
	ParamChannelID = "channel_id"
	// ParamChannelIDList is the same for libraries that write lists so, as those of PHP,
	// Rails and jQuery do.
	ParamChannelIDList = "channel_id[]"
	// ParamLastEventID and ParamLastEventIDCamel are for clients that cannot set the
	// Last-Event-ID header, as a page that opens a new EventSource.
	ParamLastEventID      = "last_event_id"
	ParamLastEventIDCamel = "lastEventId"
	// ParamStart tells how a stream without a Last-Event-ID begins: see Start.
	ParamStart = "start"
	// ParamSince and ParamLast tell where a stream without a Last-Event-ID starts: see
	// StartPoint.
	ParamSince = "since"
	ParamLast  = "last"
	// ParamTell asks for the channel of each message: see Options.
	ParamTell = "tell"
	// MemberChannels is ParamChannelID in a body of JSON, where it is usually a list.
	MemberChannels = "channels"
)

// IsParam reports whether a parameter of this name has a meaning on the stream path.
func IsParam(name string) bool {
	switch name {
	case ParamChannelID, ParamChannelIDList, ParamLastEventID, ParamLastEventIDCamel,
		ParamStart, ParamSince, ParamLast, ParamTell, MemberChannels:
		return true
	}
	return false
}

// CheckQuery returns ErrBadEscape when a "%" of query is not followed by two hex
// digits. URL parsers of browsers let such a one stand for itself; here it would
// make two names of one channel, so the request is refused.
func CheckQuery(query []byte) error {
	for {
		i := bytes.IndexByte(query, '%')
		if i < 0 {
			return nil
		}
		if len(query)-i < 3 || !isHex(query[i+1]) || !isHex(query[i+2]) {
			return ErrBadEscape
		}
		query = query[i+3:]
	}
}

// QueryParams goes through the pairs of an application/x-www-form-urlencoded query
// in order, as sent: neither name nor value is decoded. Empty pairs are left out; one
// without "=" has an empty value. Only "&" divides pairs.
func QueryParams(query []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for rest := query; len(rest) > 0; {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, []byte{'&'})
			if len(pair) == 0 {
				continue
			}
			name, value, _ := bytes.Cut(pair, []byte{'='})
			if !yield(name, value) {
				return
			}
		}
	}
}

// AppendUnescaped extends dst with s decoded: "%XX" is an octet, "+" a space. s has
// passed CheckQuery; of one that has not, a bad escape is copied as it is.
func AppendUnescaped(dst, s []byte) []byte {
	for len(s) > 0 {
		c, n := unescape(s)
		dst = append(dst, c)
		s = s[n:]
	}
	return dst
}

// QueryParam extends dst with the decoded value of the first parameter whose decoded
// name is name. ok is false, and dst as it was, without one.
func QueryParam(dst, query []byte, name string) (value []byte, ok bool) {
	for key, raw := range QueryParams(query) {
		if unescapesTo(key, name) {
			return AppendUnescaped(dst, raw), true
		}
	}
	return dst, false
}

// ChannelIDs extends dst with the decoded values of all channel_id and channel_id[]
// parameters, each channel once, in order of their first appearance. The strings are copies.
//
// It checks the escapes of the whole query first, so that the other functions may be
// used on it afterwards. Errors are those of a query, all with status 400.
func ChannelIDs(dst []string, query []byte, maxChannels int) ([]string, error) {
	if err := CheckQuery(query); err != nil {
		return dst, err
	}
	var buf [MaxChannelBytes]byte
	var known map[string]bool // of found, once there are many
	found := dst
	for key, raw := range QueryParams(query) {
		if !unescapesTo(key, ParamChannelID) && !unescapesTo(key, ParamChannelIDList) {
			continue
		}
		if len(raw) > 3*MaxChannelBytes {
			return dst, ErrBadChannel
		}
		name := AppendUnescaped(buf[:0], raw)
		if len(name) == 0 || len(name) > MaxChannelBytes || bytes.IndexByte(name, 0) >= 0 {
			return dst, ErrBadChannel
		}
		if count := len(found) - len(dst); count < manyChannels {
			if containsName(found[len(dst):], name) {
				continue
			}
		} else {
			if known == nil {
				known = setOf(found[len(dst):])
			}
			if known[string(name)] {
				continue
			}
		}
		if len(found)-len(dst) == maxChannels {
			return dst, ErrTooManyChannels
		}
		found = append(found, string(name))
		if known != nil {
			known[found[len(found)-1]] = true
		}
	}
	if len(found) == len(dst) {
		return dst, ErrNoChannel
	}
	return found, nil
}

// LastEventID extends dst with the ID from which the client wants to go on: the
// Last-Event-ID field, else the first of the two parameters that has a value.
// ok is false without one. It is what the client sent; ParseID tells whether it is
// an ID.
func (r *Request) LastEventID(dst []byte) (id []byte, ok bool) {
	if value := r.Header("Last-Event-ID"); len(value) > 0 {
		return append(dst, value...), true
	}
	for _, name := range [...]string{ParamLastEventID, ParamLastEventIDCamel} {
		if id, _ = QueryParam(dst, r.Params, name); len(id) > len(dst) {
			return id, true
		}
	}
	return dst, false
}

// Start is what a client wants a new stream to begin with.
type Start uint8

const (
	StartDefault Start = iota // it does not say
	StartID                   // start=id: its position, as an id without data
	StartNone                 // start=none: nothing but the retry time
)

// Options are what a request asks of its stream, beside its channels and its ID.
type Options struct {
	Start Start
	Told  bool // tell=channel
	From  StartPoint
}

// ParseOptions reads the parameters start, tell, since and last of a query that ChannelIDs
// has checked; of each the first one counts. MaxLast is the largest last that is allowed. An
// error is ErrBadStart, ErrBadTell, or one of StartPointOf.
func ParseOptions(query []byte, maxLast int) (Options, error) {
	var start, tell, since, last []byte // nil: not there
	for key, raw := range QueryParams(query) {
		switch {
		case start == nil && unescapesTo(key, ParamStart):
			start = shortValue(raw)
		case tell == nil && unescapesTo(key, ParamTell):
			tell = shortValue(raw)
		case since == nil && unescapesTo(key, ParamSince):
			since = shortValue(raw)
		case last == nil && unescapesTo(key, ParamLast):
			last = shortValue(raw)
		}
	}
	var o Options
	var err error
	switch string(start) {
	case "id":
		o.Start = StartID
	case "none":
		o.Start = StartNone
	default:
		if start != nil {
			return o, ErrBadStart
		}
	}
	if o.Told = string(tell) == "channel"; tell != nil && !o.Told {
		return Options{}, ErrBadTell
	}
	if o.From, err = StartPointOf(since, last, maxLast); err != nil {
		return Options{}, err
	}
	return o, nil
}

// maxValueBytes is longer than the longest value of an option that means something: RFC
// 3339 with nine digits of a second has 35 bytes.
const maxValueBytes = 64

// shortValue decodes the value of an option. One that is longer than any with a meaning is
// "?", which has none. Not nil.
func shortValue(raw []byte) []byte {
	if len(raw) > 3*maxValueBytes {
		return []byte("?")
	}
	return AppendUnescaped(make([]byte, 0, len(raw)), raw)
}

// IsEventSource reports whether the request is that of a browser's own EventSource, as far
// as that can be told. The HTML standard (§9.2.2) gives it Accept: text/event-stream and
// the cache mode no-store, for which the Fetch standard (HTTP-network-or-cache fetch) adds
// Cache-Control: no-cache and Pragma: no-cache. A fetch with the default cache mode has
// neither, and libraries outside browsers send no Pragma. A page's fetch with that cache
// mode and that Accept looks the same.
func (r *Request) IsEventSource() bool {
	return string(r.Header("Accept")) == "text/event-stream" &&
		string(r.Header("Pragma")) == "no-cache" && string(r.Header("Cache-Control")) == "no-cache"
}

// manyChannels is where a map is faster than to compare with each name: at 32 names, the
// default of the most, comparing takes half the time; 1,000 of 36 bytes take 2 ms so.
const manyChannels = 64

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, 2*len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

func containsName(names []string, name []byte) bool {
	for _, have := range names {
		if have == string(name) {
			return true
		}
	}
	return false
}

// unescapesTo reports whether s decodes to want.
func unescapesTo(s []byte, want string) bool {
	for len(s) > 0 && len(want) > 0 {
		c, n := unescape(s)
		if c != want[0] {
			return false
		}
		s, want = s[n:], want[1:]
	}
	return len(s) == 0 && len(want) == 0
}

// unescape decodes the first octet of s, which is not empty, from n octets.
func unescape(s []byte) (c byte, n int) {
	switch {
	case s[0] == '+':
		return ' ', 1
	case s[0] == '%' && len(s) >= 3 && isHex(s[1]) && isHex(s[2]):
		return unhex(s[1])<<4 | unhex(s[2]), 3
	}
	return s[0], 1
}

// unhex returns the value of a hex digit.
func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return lower(c) - 'a' + 10
}
