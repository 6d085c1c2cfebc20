package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"ssed/sseproto"
)

const (
	// maxBatchLines bounds what one batch publishes; Redis takes as many in one
	// pipeline.
	maxBatchLines = 1000
	// maxBatchBytes bounds the body of a batch, unless one message may be larger.
	maxBatchBytes = 8 << 20
	// jsonOverhead is how much longer data can get as a JSON string: \u0000 for a byte.
	jsonOverhead = 6
	// maxFieldBytes is room for the other members of a JSON object.
	maxFieldBytes = 4 << 10
)

// Message is one to be published.
type Message struct {
	Channel string
	sseproto.Message
}

// PublishResult tells what became of a message.
type PublishResult struct {
	// ID is its position, empty when it is not known in time.
	ID string
	// Receivers is how many subscriptions Redis had; meaningless in embedded mode.
	Receivers int64
	// Embedded: there are no receivers to tell of.
	Embedded bool
	// Err: it may not have been published.
	Err error
}

// body is the answer to a result.
func (r PublishResult) body() (status int, answer any) {
	if r.Err != nil {
		status, text := verdict(r.Err)
		return status, map[string]string{"error": text}
	}
	var b struct {
		ID        string `json:"id,omitempty"`
		Receivers *int64 `json:"receivers,omitempty"`
	}
	status = http.StatusAccepted
	if r.ID != "" {
		status, b.ID = http.StatusOK, r.ID
	}
	if !r.Embedded {
		b.Receivers = &r.Receivers
	}
	return status, b
}

func (a *API) publish(w http.ResponseWriter, r *http.Request) { a.publishOne(w, r, a.messageOf) }

func (a *API) send(w http.ResponseWriter, r *http.Request) { a.publishOne(w, r, a.decodedMessage) }

// publishOne publishes what read takes from the request.
func (a *API) publishOne(w http.ResponseWriter, r *http.Request, read func(http.ResponseWriter, *http.Request) (Message, error)) {
	result, err := a.resultOf(w, r, read)
	if err != nil {
		fail(w, err)
		return
	}
	status, answer := result.body()
	writeJSON(w, status, answer)
}

// resultOf holds a body only as long as it is needed: not while the client takes its answer.
func (a *API) resultOf(w http.ResponseWriter, r *http.Request, read func(http.ResponseWriter, *http.Request) (Message, error)) (PublishResult, error) {
	leave, err := a.seatBody(w, r)
	if err != nil {
		return PublishResult{}, err
	}
	defer leave()
	m, err := read(w, r)
	if err == nil {
		err = a.covers(r, m.Channel)
	}
	if err != nil {
		return PublishResult{}, err
	}
	return a.cfg.Publish(r.Context(), []Message{m})[0], nil
}

// messageOf reads a message of which the query has all but the data.
func (a *API) messageOf(w http.ResponseWriter, r *http.Request) (m Message, err error) {
	if m.Channel, err = channelOf(r.URL.RawQuery); err != nil {
		return m, err
	}
	q := queryOf(r)
	m.Event, _ = q.get("event")
	m.ID, _ = q.get("id")
	retry, _ := q.get("retry")
	if m.Retry, err = retryOf(json.Number(retry)); err != nil {
		return m, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(a.cfg.MaxMessageBytes)))
	if err != nil {
		return m, bodyError(err)
	}
	m.Data = string(body)
	return m, a.check(m)
}

var (
	errTooLarge = Refuse(http.StatusRequestEntityTooLarge, "the message is larger than --max-message-bytes")
	errBody     = Refuse(http.StatusBadRequest, "the body could not be read")
)

func bodyError(err error) error {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return errTooLarge
	}
	return errBody
}

// errControl is about ssed's own control channel: a forged message there could
// stop the feed. "__" is also where Redis puts its own announcements.
var errControl = Refuse(http.StatusBadRequest, "channels that start with __ are never delivered")

// channelOf reads channel_id by the rules of the stream.
func channelOf(query string) (string, error) {
	ids, err := sseproto.ChannelIDs(nil, []byte(query), 1)
	if err != nil {
		return "", err
	}
	return ids[0], checkChannel(ids[0])
}

func checkChannel(name string) error {
	switch {
	case !isChannel(name):
		return Refuse(http.StatusBadRequest, sseproto.ParamChannelID+" "+channelRule)
	case strings.HasPrefix(name, "__"):
		return errControl
	}
	return nil
}

// check tells why a message cannot be published.
func (a *API) check(m Message) error {
	if len(m.Data) > a.cfg.MaxMessageBytes {
		return errTooLarge
	}
	return m.Check()
}

// sendBody is a message as JSON.
type sendBody struct {
	Channel string          `json:"channel_id"`
	Event   string          `json:"event_type"`
	ID      string          `json:"id"`
	Retry   json.Number     `json:"retry"` // milliseconds
	Data    json.RawMessage `json:"data"`  // a string, or JSON that is sent as its text
}

// decodedMessage reads a message that is all in the body.
func (a *API) decodedMessage(w http.ResponseWriter, r *http.Request) (Message, error) {
	limit := jsonOverhead*int64(a.cfg.MaxMessageBytes) + maxFieldBytes
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return Message{}, bodyError(err)
	}
	return a.decode(body)
}

// decode reads one JSON object and nothing else.
func (a *API) decode(text []byte) (m Message, err error) {
	var b sendBody
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(&b) != nil || d.InputOffset() != int64(len(bytes.TrimRight(text, " \t\r\n"))) {
		return m, errForm
	}
	m = Message{Channel: b.Channel, Message: sseproto.Message{Event: b.Event, ID: b.ID}}
	if m.Data, err = dataOf(b.Data); err != nil {
		return m, err
	}
	if m.Retry, err = retryOf(b.Retry); err != nil {
		return m, err
	}
	if err = checkChannel(m.Channel); err != nil {
		return m, err
	}
	return m, a.check(m)
}

var (
	errForm = Refuse(http.StatusBadRequest, "not one JSON object with channel_id, data and, if wanted, event_type, id and retry")
	errData = Refuse(http.StatusBadRequest, "data is missing")
)

func dataOf(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", errData
	}
	if raw[0] != '"' {
		return string(raw), nil
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return "", errForm
	}
	return text, nil
}

func retryOf(n json.Number) (time.Duration, error) {
	if n == "" {
		return 0, nil
	}
	ms, err := n.Int64()
	if err != nil || ms < 0 || ms > int64(sseproto.MaxRetry/time.Millisecond) {
		return 0, sseproto.ErrBadRetry
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// batch publishes many messages, an object on each line or in an array, and answers each
// with one in the same form. One that cannot be published does not keep the others back.
func (a *API) batch(w http.ResponseWriter, r *http.Request) {
	results, inArray, err := a.batchResults(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	answers := make([]any, len(results))
	for i, result := range results {
		_, answers[i] = result.body()
	}
	if inArray {
		writeJSON(w, http.StatusOK, answers)
		return
	}
	setJSONHeaders(w.Header(), "application/x-ndjson")
	out := newEncoder(w)
	for _, answer := range answers {
		_ = out.Encode(answer) // fails only when the client has gone
	}
}

// batchResults is resultOf for a batch.
func (a *API) batchResults(w http.ResponseWriter, r *http.Request) (results []PublishResult, inArray bool, err error) {
	leave, err := a.seatBody(w, r)
	if err != nil {
		return nil, false, err
	}
	defer leave()
	objects, inArray, err := a.batchObjects(w, r)
	if err != nil {
		return nil, false, err
	}
	results = make([]PublishResult, len(objects))
	var good []Message
	var places []int
	for i, object := range objects {
		m, err := a.decode(object)
		if err == nil {
			err = a.covers(r, m.Channel)
		}
		if err != nil {
			results[i].Err = err
			continue
		}
		good, places = append(good, m), append(places, i)
	}
	if len(good) > 0 {
		for i, result := range a.cfg.Publish(r.Context(), good) {
			results[places[i]] = result
		}
	}
	return results, inArray, nil
}

var (
	errArray = Refuse(http.StatusBadRequest, "not one JSON array of messages")
	errMany  = Refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("a batch has at most %d messages", maxBatchLines))
)

// batchObjects reads the body and takes its objects apart.
func (a *API) batchObjects(w http.ResponseWriter, r *http.Request) (objects [][]byte, inArray bool, err error) {
	limit := max(maxBatchBytes, jsonOverhead*int64(a.cfg.MaxMessageBytes)+maxFieldBytes)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, false, Refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("a batch has at most %d bytes", limit))
	} else if err != nil {
		return nil, false, errBody
	}
	if body = bytes.TrimSpace(body); len(body) > 0 && body[0] == '[' { // no line begins so
		objects, err = elements(body)
		return objects, true, err
	}
	objects, err = linesOf(body)
	return objects, false, err
}

// linesOf returns the lines that are not empty.
func linesOf(body []byte) (lines [][]byte, err error) {
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if len(lines) == maxBatchLines {
			return nil, errMany
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// elements returns those of an array.
func elements(body []byte) (list [][]byte, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		return nil, errArray
	}
	for d.More() {
		var element json.RawMessage
		if d.Decode(&element) != nil {
			return nil, errArray
		}
		if len(list) == maxBatchLines {
			return nil, errMany
		}
		list = append(list, element)
	}
	if _, err := d.Token(); err != nil || d.InputOffset() != int64(len(body)) {
		return nil, errArray
	}
	return list, nil
}
