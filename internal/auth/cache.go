package auth

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"ssed/engine"
	"ssed/sseproto"
)

const (
	// maxGrants bounds the grants remembered: some 2 MB.
	maxGrants = 10_000
	// maxDenials bounds the denials remembered, apart from the grants: who is denied
	// with ever other credentials takes no room from those who are not. 4 MB at most.
	maxDenials = 1_000
	// denialTTL spares the service who asks again at once. Longer, and a user who was
	// just given access would wait.
	denialTTL = time.Second
	// maxDenialSize is the longest denial that is remembered.
	maxDenialSize = 4 << 10
)

type cacheKey [sha256.Size]byte

// notKeyed are fields that differ from one request of a client to its next, and on
// which no service decides who may have a channel.
var notKeyed = map[string]bool{
	"Last-Event-Id": true, "Cache-Control": true, "Pragma": true,
	"X-Request-Id": true, "X-Correlation-Id": true, "X-Amzn-Trace-Id": true, "Cf-Ray": true,
	"Traceparent": true, "Tracestate": true, "X-B3-Traceid": true, "X-B3-Spanid": true,
	// They have the position in the stream in them; the URI is keyed without it.
	"X-Original-Uri": true, "X-Forwarded-Uri": true,
}

// keyOf hashes everything that the service could base its decision on: all fields
// sent to it, so credentials, client and origin, and the URI.
func keyOf(r *engine.AuthRequest, header http.Header) (key cacheKey) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if notKeyed[name] {
			continue
		}
		hashPart(h, name)
		hashNumber(h, len(header[name]))
		for _, value := range header[name] {
			hashPart(h, value)
		}
	}
	hashPart(h, string(r.Request.Path))
	for name, value := range sseproto.QueryParams(r.Request.Params) {
		switch string(name) {
		case sseproto.ParamLastEventID, sseproto.ParamLastEventIDCamel:
			continue
		}
		hashPart(h, string(name))
		hashPart(h, string(value))
	}
	h.Sum(key[:0])
	return key
}

// hashPart writes s with its length: no two lists of parts hash the same bytes.
func hashPart(h hash.Hash, s string) {
	hashNumber(h, len(s))
	_, _ = h.Write([]byte(s)) // a hash returns no error
}

func hashNumber(h hash.Hash, n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	_, _ = h.Write(b[:])
}

// cache remembers answers of the service for a time. All stay equally long, so the
// order of their coming is that of their going.
type cache struct {
	// fixed after construction
	ttl  time.Duration
	most int

	mu         sync.Mutex
	byKey      map[cacheKey]*list.Element // guarded by mu
	oldest     *list.List                 // of *cached, guarded by mu
	generation uint64                     // grows with clear, guarded by mu
}

type cached struct {
	key    cacheKey
	until  time.Time
	answer *answer // shared, not written to any more
}

func newCache(ttl time.Duration, most int) *cache {
	return &cache{ttl: ttl, most: most, byKey: make(map[cacheKey]*list.Element), oldest: list.New()}
}

// get returns what was answered to a request; nil: nothing that still counts.
func (c *cache) get(key cacheKey) *answer {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(now)
	element, ok := c.byKey[key]
	if !ok || element.Value.(*cached).answer.isOver(now) {
		return nil
	}
	return element.Value.(*cached).answer
}

// now is the generation of answers to what is asked from here on.
func (c *cache) now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// put remembers an answer, unless all was forgotten since it was asked for. The oldest
// makes room.
func (c *cache) put(key cacheKey, a *answer, generation uint64) {
	entry := &cached{key: key, until: time.Now().Add(c.ttl), answer: a}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if old, ok := c.byKey[key]; ok {
		c.remove(old)
	}
	if c.oldest.Len() == c.most {
		c.remove(c.oldest.Front())
	}
	c.byKey[key] = c.oldest.PushBack(entry)
}

// clear forgets all, also what is being asked for now.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	clear(c.byKey)
	c.oldest.Init()
}

func (c *cache) expire(now time.Time) {
	for front := c.oldest.Front(); front != nil; front = c.oldest.Front() {
		if now.Before(front.Value.(*cached).until) {
			return
		}
		c.remove(front)
	}
}

func (c *cache) remove(element *list.Element) {
	c.oldest.Remove(element)
	delete(c.byKey, element.Value.(*cached).key)
}
