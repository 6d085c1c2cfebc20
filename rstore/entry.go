package rstore

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/sseproto"
)

// fieldGap is what an entry has in the place of a message that was too large, with the
// reason as its value. It has no data: earlier versions pass such an entry over.
const fieldGap = "gap"

// event reports one entry and returns its ID.
func (q *rangeQuery) event(ch int, channel string, entry *rueidis.RedisMessage) (sseproto.ID, error) {
	id, m, found, err := parseEntry(channel, entry)
	if found {
		q.bytes += len(m.Data)
		q.replay.Event(ch, id, m)
	}
	return id, err
}

// parseEntry reads an entry of a channel. Not found: it has no data, and is somebody else's.
func parseEntry(channel string, entry *rueidis.RedisMessage) (id sseproto.ID, m sseproto.Message, found bool, err error) {
	pair, err := entry.ToArray()
	if err != nil || len(pair) != 2 {
		return id, m, false, errors.Join(errEntry, err)
	}
	if id, err = messageID(&pair[0]); err != nil {
		return id, m, false, err
	}
	fields, err := pair[1].ToArray()
	if err != nil {
		return id, m, false, errors.Join(errEntry, err)
	}
	m, found, err = messageOf(fields)
	if !found && m.Event == sseproto.EventGap {
		m, found = sseproto.Oversize(channel), true
	}
	return id, m, found, err
}

// messageOf reads the fields of an entry; not found: it has no data. Then a message of type
// EventGap says that it stands in the place of one that was too large. Somebody else
// may have written it: a retry that is no time is none, and a type that only ssed
// may use counts as none. An id or a type that is not allowed does no harm in
// sseproto.AppendEvent.
func messageOf(fields []rueidis.RedisMessage) (m sseproto.Message, found bool, err error) {
	m.Event = sseproto.EventMessage
	tooLarge := false
	for i := 0; i+1 < len(fields); i += 2 {
		name, err := fields[i].ToString()
		if err != nil {
			return m, false, errors.Join(errEntry, err)
		}
		value, err := fields[i+1].ToString()
		if err != nil {
			return m, false, errors.Join(errEntry, err)
		}
		switch name {
		case "data":
			m.Data, found = value, true
		case "event_type":
			m.Event = value
		case fieldGap:
			tooLarge = value == sseproto.ReasonOversize
		case "id":
			m.ID = value
		case "retry":
			if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
				m.Retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
	switch {
	case !found && tooLarge:
		m = sseproto.Message{Event: sseproto.EventGap}
	case m.Event == sseproto.EventGap:
		m.Event = sseproto.EventMessage
	}
	return m, found, nil
}

var errEntry = errors.New("rstore: malformed stream entry")

func messageID(m *rueidis.RedisMessage) (sseproto.ID, error) {
	text, err := m.ToString()
	if err != nil {
		return sseproto.ID{}, errors.Join(errEntry, err)
	}
	id, err := sseproto.ParseID(text)
	if err != nil {
		return sseproto.ID{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	return id, nil
}
