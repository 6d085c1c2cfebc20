//go:build linux

package main

import (
	"fmt"
	"strings"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// stretch is a range of IDs: from < id ≤ to.
type stretch struct{ from, to sseproto.ID }

func (s stretch) has(id sseproto.ID) bool { return s.from.Less(id) && !s.to.Less(id) }

// entry is one message of a stream.
type entry struct {
	id  sseproto.ID
	key key
}

// history is what the streams hold at the end.
type history struct {
	channels [][]entry
	gaps     []stretch         // what no instance saw, told to whoever asks for it
	holes    map[int][]stretch // channel → what its stream refused
}

// readHistory reads the streams of a partition: of those channels that are its own.
func readHistory(r *redistest.Server, k redisconn.Keys, channels int, isOwn func(channel int) bool) (h history, err error) {
	h.channels = make([][]entry, channels)
	h.holes = make(map[int][]stretch)
	for ch := range channels {
		if !isOwn(ch) {
			continue
		}
		reply, err := r.Do("XRANGE", k.Stream(channelName(ch)), "-", "+")
		if err != nil {
			return h, fmt.Errorf("chaos: history of %s: %w", channelName(ch), err)
		}
		for _, item := range reply.([]any) {
			e, err := parseEntry(item)
			if err != nil {
				return h, fmt.Errorf("chaos: history of %s: %w", channelName(ch), err)
			}
			h.channels[ch] = append(h.channels[ch], e)
		}
	}
	return h, h.readMarkers(r, k)
}

func parseEntry(item any) (e entry, err error) {
	parts := item.([]any)
	if e.id, err = sseproto.ParseID(parts[0].(string)); err != nil {
		return e, err
	}
	fields := parts[1].([]any)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == "data" {
			e.key, err = parsePayload([]byte(fields[i+1].(string)))
			return e, err
		}
	}
	return e, fmt.Errorf("entry %v has no data", e.id)
}

// readMarkers reads what is known to be missing.
func (h *history) readMarkers(r *redistest.Server, k redisconn.Keys) error {
	reply, err := r.Do("LRANGE", k.Gaps, "0", "-1")
	if err != nil {
		return fmt.Errorf("chaos: gap markers: %w", err)
	}
	for _, item := range reply.([]any) {
		s, err := parseStretch(item.(string))
		if err != nil {
			return err
		}
		h.gaps = append(h.gaps, s)
	}
	if reply, err = r.Do("HGETALL", k.Rejected); err != nil {
		return fmt.Errorf("chaos: holes: %w", err)
	}
	pairs := reply.([]any)
	for i := 0; i+1 < len(pairs); i += 2 {
		ch, ok := parseChannel(strings.TrimPrefix(pairs[i].(string), k.Prefix))
		s, err := parseStretch(pairs[i+1].(string))
		if err != nil {
			return err
		}
		if ok {
			h.holes[ch] = append(h.holes[ch], s)
		}
	}
	return nil
}

// parseStretch reads "<from> <to> …".
func parseStretch(text string) (s stretch, err error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return s, fmt.Errorf("chaos: marker %q", text)
	}
	if s.from, err = sseproto.ParseID(words[0]); err != nil {
		return s, err
	}
	s.to, err = sseproto.ParseID(words[1])
	return s, err
}

// excused reports whether the history says of itself that it lacks the ID.
func (h *history) excused(channel int, id sseproto.ID) bool {
	for _, s := range h.gaps {
		if s.has(id) {
			return true
		}
	}
	for _, s := range h.holes[channel] {
		if s.has(id) {
			return true
		}
	}
	return false
}
