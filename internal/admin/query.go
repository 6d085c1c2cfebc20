package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"ssed/internal/wording"
	"ssed/sseproto"
)

// Pages are as long as asked for, up to maxLimit: a page of connections is gathered
// by the event loops, which serve streams meanwhile.
const (
	defaultConnections = 100
	defaultChannels    = 50
	defaultHistory     = 100
	maxLimit           = 1000
)

// refusal is an error with the status to answer it with. Its text holds no bytes of
// the request.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return "admin: " + r.text }

// Refuse returns an error that is answered with the status and the text.
func Refuse(status int, text string) error { return &refusal{status, text} }

// fail answers an error. Those of this package and of sseproto say how, others come from
// something that could not be reached.
func fail(w http.ResponseWriter, err error) {
	status, text := verdict(err)
	writeError(w, status, text)
}

func verdict(err error) (status int, text string) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status, r.text
	}
	if p, ok := errors.AsType[*sseproto.ProtocolError](err); ok {
		return http.StatusBadRequest, p.Text()
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge, "the body is too large"
	}
	return http.StatusServiceUnavailable, wording.Plain(err.Error())
}

// query reads parameters by the rules of the stream. Unknown ones are ignored; of those
// that are there twice the first counts.
type query struct {
	raw []byte
	err error // the first problem
}

func queryOf(r *http.Request) query {
	q := query{raw: []byte(r.URL.RawQuery)}
	if q.err = sseproto.CheckQuery(q.raw); q.err != nil {
		q.raw = nil
	}
	return q
}

func (q *query) bad(name, why string) {
	if q.err == nil {
		q.err = Refuse(http.StatusBadRequest, name+" "+why)
	}
}

// limit reads how long a page may be.
func (q *query) limit(or int) int {
	text, ok := q.get("limit")
	if !ok {
		return or
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		q.bad("limit", fmt.Sprintf("must be a whole number from 1 to %d", maxLimit))
	}
	return n
}

// get returns the first value of a parameter.
func (q *query) get(name string) (value string, ok bool) {
	text, ok := sseproto.QueryParam(nil, q.raw, name)
	return string(text), ok
}

// count returns how often a parameter is there.
func (q *query) count(name string) (n int) {
	for key := range sseproto.QueryParams(q.raw) {
		if string(sseproto.AppendUnescaped(nil, key)) == name {
			n++
		}
	}
	return n
}

// channel reads channel_id, which may be absent: "".
func (q *query) channel() string {
	name, ok := q.get(sseproto.ParamChannelID)
	if ok && !isChannel(name) {
		q.bad(sseproto.ParamChannelID, channelRule)
	}
	return name
}

const channelRule = "must be a name of 1 to 255 bytes without NUL"

func isChannel(name string) bool {
	return name != "" && len(name) <= sseproto.MaxChannelBytes && strings.IndexByte(name, 0) < 0
}

// channelInPath is the last part of the path, percent-decoded.
func channelInPath(r *http.Request) (string, error) {
	name := r.PathValue("channel")
	if !isChannel(name) {
		return "", Refuse(http.StatusBadRequest, "the channel "+channelRule)
	}
	return name, nil
}
