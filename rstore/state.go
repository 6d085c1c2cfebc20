package rstore

import (
	"fmt"
	"strconv"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
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

	// before is when the channel's message before the first one was: its Ms is known,
	// not its Seq. Known: the writer had both in its log.
	before uint64
	known  bool
}

func parseState(r rueidis.RedisResult) (st streamState, err error) {
	f, err := r.AsMap()
	if redisconn.Code(err) == redisconn.CodeGeneric {
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
	if st.first, err = messageID(&pair[0]); err != nil || len(pair) < 2 {
		return st, err
	}
	fields, err := pair[1].AsStrSlice()
	if err != nil {
		return st, fmt.Errorf("rstore: xinfo: first-entry: %w", err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == "prev" {
			st.setBefore(fields[i+1])
		}
	}
	return st, nil
}

// setBefore reads the field prev of the first entry.
func (st *streamState) setBefore(prev string) {
	if distance, err := strconv.ParseUint(prev, 10, 64); err == nil && distance <= st.first.Ms {
		st.before, st.known = st.first.Ms-distance, true
	}
}
