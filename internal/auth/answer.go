package auth

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ssed/engine"
	"ssed/sseproto"
)

// Fields of an answer, the first of a request too.
const (
	fieldChannels = "X-SSE-Channels" // the channels asked for; in an answer, globs that narrow them
	fieldSubject  = "X-SSE-Subject"  // who the client is
	fieldExpires  = "X-SSE-Expires"  // when the stream ends, in seconds since 1970
)

var (
	errSubject = errors.New(fieldSubject + ": more than one, or not at most 255 bytes of UTF-8 without control characters")
	errExpires = errors.New(fieldExpires + ": missing although an end is required, more than one, or not seconds since 1970")
)

// answer is what the service said about a request.
type answer struct {
	granted []uint16 // indexes into the channels asked for; nil: all
	subject string
	expires time.Time // wall clock; zero: no end

	denial *engine.Denial // nil: granted
	why    Reason
}

// isOver reports whether the grant has ended. Its end has no monotonic clock, so that
// wall is compared with wall.
func (a *answer) isOver(now time.Time) bool { return !a.expires.IsZero() && !now.Before(a.expires) }

// isFinal reports whether a denial is about the request, and not about the service or
// the moment, and short enough to be remembered.
func (a *answer) isFinal() bool {
	switch a.denial.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	size := len(a.denial.Body)
	for _, field := range a.denial.Fields {
		size += len(field.Value)
	}
	return a.denial.Status < 500 && size <= maxDenialSize
}

// grantOf reads an answer that admits. Its strings are copies.
func grantOf(header http.Header, channels []string, needsEnd bool) (*answer, error) {
	a := &answer{}
	granted := narrow(channels, header.Values(fieldChannels))
	if len(granted) == 0 {
		a.why = RefusedChannels
		a.denial = &engine.Denial{Status: http.StatusForbidden, Body: "forbidden\n"}
		return a, nil
	}
	if len(granted) < len(channels) {
		for i, channel := range channels {
			if slices.Contains(granted, channel) {
				a.granted = append(a.granted, uint16(i))
			}
		}
	}
	var err error
	if a.subject, err = subjectIn(header.Values(fieldSubject)); err != nil {
		return nil, err
	}
	a.expires, err = endIn(header.Values(fieldExpires), needsEnd)
	return a, err
}

// subjectIn reads a subject, in which "%XX" stands for that octet.
func subjectIn(fields []string) (string, error) {
	if len(fields) == 0 {
		return "", nil
	}
	var b strings.Builder
	for s := fields[0]; s != ""; {
		octet, _, rest := nextOctet(s)
		b.WriteByte(octet)
		s = rest
	}
	if subject := b.String(); len(fields) == 1 && isSubject(subject) {
		return subject, nil
	}
	return "", errSubject
}

// isSubject reports whether s can be shown and logged: it is not split, and not longer
// than a channel's name.
func isSubject(s string) bool {
	return len(s) <= engine.MaxSubjectBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// lastSecond is the end of the year 9999.
const lastSecond = 253402300799

func endIn(fields []string, isNeeded bool) (time.Time, error) {
	if len(fields) == 0 && !isNeeded {
		return time.Time{}, nil
	}
	if len(fields) != 1 {
		return time.Time{}, errExpires
	}
	seconds, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || seconds < 0 || seconds > lastSecond {
		return time.Time{}, errExpires
	}
	return time.Unix(seconds, 0), nil
}

// denialOf makes the refusal of the service ours. The body of a 5xx stays here: it is
// about the service and not for clients.
func denialOf(resp *http.Response, body string, isWhole bool) *answer {
	d := &engine.Denial{Status: resp.StatusCode, Body: body}
	if !isWhole || body == "" || resp.StatusCode >= 500 {
		d.Body = strings.ToLower(http.StatusText(resp.StatusCode)) + "\n"
	}
	names := []string{"WWW-Authenticate", "Retry-After"}
	if resp.StatusCode < 400 {
		names = append(names, "Location")
	}
	for _, name := range names {
		for _, value := range resp.Header.Values(name) {
			d.Fields = append(d.Fields, sseproto.Field{Name: name, Value: value})
		}
	}
	return &answer{denial: d, why: RefusedService}
}

// narrow returns the channels that the fields of an answer grant: all without a field.
func narrow(channels, fields []string) []string {
	if fields == nil {
		return channels
	}
	var globs []string
	for _, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			if part = strings.Trim(part, " \t"); part != "" {
				globs = append(globs, unescapeGlob(part))
			}
		}
	}
	var granted []string
	for _, channel := range channels {
		if matchAny(globs, channel) {
			granted = append(granted, channel)
		}
	}
	return granted
}

// unescapeGlob turns "%XX" into that octet, escaped: it stands for itself in the
// glob. A "%" before anything else stands for itself as it is.
func unescapeGlob(s string) string {
	var b strings.Builder
	for s != "" {
		octet, isEscaped, rest := nextOctet(s)
		if isEscaped {
			b.WriteByte('\\')
		}
		b.WriteByte(octet)
		s = rest
	}
	return b.String()
}

// nextOctet takes the first octet off s, which is not empty: that of "%XX", or one as
// it is.
func nextOctet(s string) (octet byte, isEscaped bool, rest string) {
	if s[0] == '%' && len(s) >= 3 {
		if octet, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
			return byte(octet), true, s[3:]
		}
	}
	return s[0], false, s[1:]
}
