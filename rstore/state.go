package rstore

import (
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"ssed/sseproto"
)

// streamState is what XINFO STREAM tells about a channel.
type streamState struct {
	exists  bool
	first   sseproto.ID // zero when the stream is empty
	last    sseproto.ID // that it ever had
	deleted sseproto.ID // up to here entries were deleted one by one or by Delete
	length  int64
	added   int64 // since the stream was made or Delete
}

func parseState(r rueidis.RedisResult) (st streamState, err error) {
	f, err := r.AsMap()
	if errorCode(err) == "ERR" {
		return streamState{}, nil // no such key
	}
	if err != nil {
		return st, fmt.Errorf("rstore: xinfo: %w", err)
	}
	st.exists = true
	length := f["length"]
	if st.length, err = length.AsInt64(); err != nil {
		return st, fmt.Errorf("rstore: xinfo: length: %w", err)
	}
	added := f["entries-added"]
	if st.added, err = added.AsInt64(); err != nil {
		return st, fmt.Errorf("rstore: xinfo: entries-added: %w", err)
	}
	deleted := f["max-deleted-entry-id"]
	if st.deleted, err = messageID(&deleted); err != nil {
		return st, fmt.Errorf("rstore: xinfo: max-deleted-entry-id: %w", err)
	}
	last := f["last-generated-id"]
	if st.last, err = messageID(&last); err != nil {
		return st, fmt.Errorf("rstore: xinfo: last-generated-id: %w", err)
	}
	entry := f["first-entry"]
	if entry.IsNil() {
		return st, nil
	}
	pair, err := entry.ToArray()
	if err != nil || len(pair) == 0 {
		return st, fmt.Errorf("rstore: xinfo: first-entry: %w", err)
	}
	st.first, err = messageID(&pair[0])
	return st, err
}

// lost tells what may be missing right after a position. A stream that still
// has an entry at or before it has everything since, but for what was deleted, and
// so has one that never had an entry after it.
//
// A key expires the TTL after its last message was written, which is the TTL
// after that message's ID or later. So messages after the position can have
// expired only when the TTL has passed between the position and now, or
// between the position and the first message of the stream that is there now.
// That message may have waited to be written while the old key expired, hence
// the slack.
func (st streamState) lost(after sseproto.ID, ttl time.Duration, now uint64) string {
	limit := uint64(max(1, ttl.Milliseconds()))
	switch {
	case st.trimmed(after):
		return sseproto.ReasonTrimmed
	case st.exists && (!after.Less(st.last) || st.length > 0 && !after.Less(st.first)):
		return ""
	case st.length > 0:
		now = min(now, st.first.Ms)
		limit -= uint64(min(maxSlack, ttl/100).Milliseconds())
	}
	if now > after.Ms && now-after.Ms > limit {
		return sseproto.ReasonExpired
	}
	return ""
}

// trimmed tells whether entries after the position were removed.
func (st streamState) trimmed(after sseproto.ID) bool {
	switch {
	case !st.exists || !after.Less(st.last):
		return false
	case after.Less(st.deleted):
		return true
	case st.length > 0 && !after.Less(st.first):
		return false
	}
	return st.added > st.length
}

// oldest is the first position left after the given one, as far as known.
func (st streamState) oldest(after sseproto.ID) sseproto.ID {
	if after.Less(st.first) {
		return st.first
	}
	return sseproto.ID{}
}
