package engine

import (
	"math"
	"time"

	"ssed/engine/internal/front"
)

// credential is what a grant says of a connection beside its channels.
type credential struct {
	subject uint32 // handle of the front; 0: none
	ends    uint32 // second of the wall clock, since 1970, at which the grant is over; 0: never
}

// credentials are those of a shard's slots, by their numbers. Chunks are made where a
// grant says something: 8 bytes a slot, and 8 more where a token has an ID. Without
// grants there are none.
type credentials struct {
	chunks []*[tableChunk]credential
	tokens []*[tableChunk]uint64 // hashes of the IDs of tokens; 0: none
}

// set keeps what the grant of a stream says, for slot i.
func (t *credentials) set(i uint32, a *front.Stream) {
	if a.Subject != 0 || !a.Ends.IsZero() {
		*chunked(&t.chunks, i) = credential{subject: a.Subject, ends: wallSecond(a.Ends)}
	}
	if a.Token != 0 {
		*chunked(&t.tokens, i) = a.Token
	}
}

// get returns what was set for slot i, or the zero value.
func (t *credentials) get(i uint32) credential {
	if n := i / tableChunk; n < uint32(len(t.chunks)) && t.chunks[n] != nil {
		return t.chunks[n][i%tableChunk]
	}
	return credential{}
}

// token is the hash of the token of slot i; 0: it has none.
func (t *credentials) token(i uint32) uint64 {
	if n := i / tableChunk; n < uint32(len(t.tokens)) && t.tokens[n] != nil {
		return t.tokens[n][i%tableChunk]
	}
	return 0
}

// isOver reports whether the grant of slot i has ended at a second of the wall clock.
func (t *credentials) isOver(i, second uint32) bool {
	ends := t.get(i).ends
	return ends != 0 && ends <= second
}

// clear forgets what was set for slot i.
func (t *credentials) clear(i uint32) {
	if n := i / tableChunk; n < uint32(len(t.chunks)) && t.chunks[n] != nil {
		t.chunks[n][i%tableChunk] = credential{}
	}
	if n := i / tableChunk; n < uint32(len(t.tokens)) && t.tokens[n] != nil {
		t.tokens[n][i%tableChunk] = 0
	}
}

// chunked returns the place of slot i, whose chunk is made if it is not there.
func chunked[T any](chunks *[]*[tableChunk]T, i uint32) *T {
	n := i / tableChunk
	for uint32(len(*chunks)) <= n {
		*chunks = append(*chunks, nil)
	}
	if (*chunks)[n] == nil {
		(*chunks)[n] = new([tableChunk]T)
	}
	return &(*chunks)[n][i%tableChunk]
}

// wallSecond turns the end of a grant into seconds since 1970. It is compared with the
// wall clock at the moment of use: whoever signed it had a wall clock, and that of this
// machine may be set while the process runs.
func wallSecond(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 1), math.MaxUint32))
}
