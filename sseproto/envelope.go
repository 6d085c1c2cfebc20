package sseproto

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Names of the members of an envelope.
const (
	memberEvent  = "event"
	memberID     = "id"
	memberRetry  = "retry"
	memberData   = "data"
	memberSocket = "socket"
)

// EnvelopeMembers are the names of all members that an envelope may have. Instances with
// other ones send other frames.
const EnvelopeMembers = memberData + " " + memberEvent + " " + memberID + " " + memberRetry + " " + memberSocket

// ParseEnvelope reads a payload that is a JSON object (RFC 8259) with a member data
// and none but data, event, id, retry and socket. Every other payload is not an envelope: ok
// is false, and it stands for itself. That is no error, whatever it is.
//
//   - data: a string stands for its text, any other value for its JSON as it is
//     written in the payload.
//   - event: a string.
//   - id: a string, or a number, which stands for its text.
//   - retry: a number, whole milliseconds.
//   - socket: a string or null, only beside an event. Laravel's broadcaster for Redis sends
//     event, data and socket, which names the connection that shall not get the event. It
//     has no meaning here.
//
// To send JSON that looks like an envelope and is none, put it into one, as its data.
//
// An event, id or retry that is null, "" or (retry) 0 is ignored. These are no envelopes:
// objects with a member twice, because nobody could tell which one counts; names in other
// letter case or with escapes; payloads that are not UTF-8, that have anything but white
// space around the object, or that nest deeper than encoding/json allows (10,000). An
// escaped half of a surrogate pair becomes U+FFFD.
//
// When it has this form and Check refuses what it says, ok is false too and m has
// the refused fields: then m.Check() is not nil, as it is for all others.
//
// The strings are parts of payload, or new where they had escapes. An object whose
// first member has another name costs no more than to read that name; others are
// read three times from front to back.
func ParseEnvelope(payload string) (m Message, ok bool) {
	values, ok := cutMembers(payload)
	if !ok || !utf8.ValidString(payload) || !json.Valid(bytesOf(payload)) {
		return Message{}, false
	}
	if m, ok = values.message(); !ok {
		return Message{}, false
	}
	return m, m.Check() == nil
}

// AppendEnvelope extends dst with the envelope of m, data as a string: ParseEnvelope
// gives m back if Check allows it, its data is UTF-8 and its Retry whole
// milliseconds. In data invalid UTF-8 becomes U+FFFD, as it would in the frame.
func AppendEnvelope(dst []byte, m Message) []byte {
	dst = append(dst, '{')
	start := len(dst)
	dst = appendMember(dst, start, memberEvent, m.Event)
	dst = appendMember(dst, start, memberID, m.ID)
	if ms := m.Retry.Milliseconds(); ms > 0 {
		dst = appendMemberName(dst, start, memberRetry)
		dst = strconv.AppendInt(dst, ms, 10)
	}
	dst = appendMemberName(dst, start, memberData)
	return append(appendJSONString(dst, m.Data), '}')
}

// AppendPayload extends dst with what is to be published, so that instances that read
// envelopes deliver m: its data alone where that says all and is not taken for an
// envelope itself, else the envelope of m.
func AppendPayload(dst []byte, m Message) []byte {
	if m.isDataAlone() {
		if _, isEnvelope := ParseEnvelope(m.Data); !isEnvelope {
			return append(dst, m.Data...)
		}
	}
	return AppendEnvelope(dst, m)
}

// isDataAlone reports whether the data says all, and is not taken for a marked envelope.
func (m *Message) isDataAlone() bool {
	return m.ID == "" && m.Retry == 0 && (m.Event == "" || m.Event == EventMessage) && !strings.HasPrefix(m.Data, envelopeMark)
}

// envelopeMark begins a payload that is an envelope also for instances that read none: what
// ssed itself publishes with a type, an ID or a retry time. Text and JSON never begin so.
const envelopeMark = "\x00ssed\x00"

// AppendMarked extends dst with what is to be published, so that instances deliver m
// whether or not they read envelopes: its data alone where that says all, else an envelope
// behind a mark.
func AppendMarked(dst []byte, m Message) []byte {
	if m.isDataAlone() {
		return append(dst, m.Data...)
	}
	return AppendEnvelope(append(dst, envelopeMark...), m)
}

// ParseMarked reads a payload of AppendMarked that has a mark. Every other payload stands for
// itself, or is an envelope: ok is false. It costs nothing where there is no mark.
func ParseMarked(payload string) (m Message, ok bool) {
	if !strings.HasPrefix(payload, envelopeMark) {
		return Message{}, false
	}
	return ParseEnvelope(payload[len(envelopeMark):])
}

// envelope is the JSON values of the members of an object; "" for none.
type envelope struct{ data, event, id, retry, socket string }

// member returns where the value of a name goes; nil for a name that no envelope has.
func (e *envelope) member(name string) *string {
	switch name {
	case memberData:
		return &e.data
	case memberEvent:
		return &e.event
	case memberID:
		return &e.id
	case memberRetry:
		return &e.retry
	case memberSocket:
		return &e.socket
	}
	return nil
}

// cutMembers cuts an object into its members and gives up at the first that an
// envelope has not. The grammar of what it cuts is not checked: of valid JSON the
// cuts are right, of anything else they may be anywhere.
func cutMembers(s string) (e envelope, ok bool) {
	s = trimSpace(s)
	if len(s) < 2 || s[0] != '{' || s[len(s)-1] != '}' {
		return e, false
	}
	for s = s[1 : len(s)-1]; ; s = s[1:] {
		var name string
		if name, s, ok = cutMemberName(s); !ok {
			return e, false
		}
		value := e.member(name)
		if value == nil || *value != "" || s == "" {
			return e, false
		}
		n := valueLen(s)
		*value = s[:n]
		if s = skipSpace(s[n:]); s == "" {
			return e, e.data != ""
		}
		if s[0] != ',' || n == 0 {
			return e, false
		}
	}
}

// message turns the values, of valid JSON, into what they say. Not ok: one is of a
// type that it may not have.
func (e *envelope) message() (m Message, ok bool) {
	if m.Data, ok = textOf(e.data); !ok {
		m.Data = e.data
	}
	if m.Event, ok = textOf(e.event); !ok && !isAbsent(e.event) {
		return m, false
	}
	if m.ID, ok = textOf(e.id); !ok && isNumber(e.id) {
		m.ID = e.id
	} else if !ok && !isAbsent(e.id) {
		return m, false
	}
	if e.socket != "" && (m.Event == "" || e.socket != "null" && e.socket[0] != '"') {
		return m, false
	}
	if isNumber(e.retry) {
		m.Retry = retryOf(e.retry)
		return m, true
	}
	return m, isAbsent(e.retry)
}

// isSpace knows the white space of RFC 8259 §2.
func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func skipSpace(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	return s
}

func trimSpace(s string) string {
	for s = skipSpace(s); s != "" && isSpace(s[len(s)-1]); {
		s = s[:len(s)-1]
	}
	return s
}

// cutMemberName cuts the name of the next member and its colon off.
func cutMemberName(s string) (name, rest string, ok bool) {
	s = skipSpace(s)
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	if name, s, ok = strings.Cut(s[1:], `"`); !ok {
		return "", "", false
	}
	s, ok = strings.CutPrefix(skipSpace(s), ":")
	return name, skipSpace(s), ok
}

// valueLen is the length of the JSON value that s begins with; 0 for none.
func valueLen(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			i += stringLen(s[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return len(s)
}

// stringLen is the length of the JSON string that s begins with, quotes included.
// A quote behind an odd number of backslashes is one of its characters.
func stringLen(s string) int {
	for end := 1; ; end++ {
		next := strings.IndexByte(s[end:], '"')
		if next < 0 {
			return len(s)
		}
		end += next
		start := end
		for s[start-1] == '\\' {
			start--
		}
		if (end-start)%2 == 0 {
			return end + 1
		}
	}
}

// textOf returns the text of a JSON string; false: it is none.
func textOf(value string) (text string, ok bool) {
	if value == "" || value[0] != '"' {
		return "", false
	}
	if strings.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1], true
	}
	return unescapeJSON(value[1 : len(value)-1]), true
}

// unescapeJSON decodes the inside of a JSON string whose grammar was checked.
// encoding/json would check it once more, and takes eight times as long.
func unescapeJSON(s string) string {
	text := make([]byte, 0, len(s))
	for {
		plain, escape, more := strings.Cut(s, `\`)
		text = append(text, plain...)
		if !more {
			return viewOf(text)
		}
		var r rune
		r, s = cutEscape(escape)
		text = utf8.AppendRune(text, r)
	}
}

// cutEscape cuts one escape off, of which s has all but the backslash. Half a
// surrogate pair is U+FFFD (which utf8 makes of it), as in encoding/json.
func cutEscape(s string) (r rune, rest string) {
	if s[0] != 'u' {
		if i := strings.IndexByte("bfnrt", s[0]); i >= 0 {
			return rune("\b\f\n\r\t"[i]), s[1:]
		}
		return rune(s[0]), s[1:]
	}
	r, rest = hexRune(s[1:5]), s[5:]
	if utf16.IsSurrogate(r) && strings.HasPrefix(rest, `\u`) {
		if pair := utf16.DecodeRune(r, hexRune(rest[2:6])); pair != utf8.RuneError {
			return pair, rest[6:]
		}
	}
	return r, rest
}

func hexRune(digits string) (r rune) {
	for i := range len(digits) {
		r = r<<4 | rune(unhex(digits[i]))
	}
	return r
}

func isAbsent(value string) bool { return value == "" || value == "null" }

func isNumber(value string) bool { return value != "" && (value[0] == '-' || isDigit(value[0])) }

// badRetry stands for a number that is no time; Check refuses it.
const badRetry = -time.Millisecond

func retryOf(value string) time.Duration {
	ms, err := strconv.ParseUint(value, 10, 63)
	if err != nil || ms > maxRetryMs {
		return badRetry
	}
	return time.Duration(ms) * time.Millisecond
}
