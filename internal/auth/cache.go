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

// maxCached bounds the grants remembered: some 2 MB. The oldest makes room.
const maxCached = 10_000

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
	for name, value := range sseproto.QueryParams(r.Request.Query) {
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

// cache remembers grants for a time. All stay equally long, so the order of their
// coming is that of their going.
type cache struct {
	ttl time.Duration

	mu     sync.Mutex
	byKey  map[cacheKey]*list.Element // guarded by mu
	oldest *list.List                 // of *cached, guarded by mu
}

type cached struct {
	key     cacheKey
	expires time.Time
	granted []uint16 // indexes into the channels asked for, which the key covers; nil: all
}

func newCache(ttl time.Duration) *cache {
	return &cache{ttl: ttl, byKey: make(map[cacheKey]*list.Element), oldest: list.New()}
}

// get returns what of the channels asked for is granted.
func (c *cache) get(key cacheKey, asked []string) ([]string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(time.Now())
	element, ok := c.byKey[key]
	if !ok {
		return nil, false
	}
	indexes := element.Value.(*cached).granted
	if indexes == nil {
		return asked, true
	}
	granted := make([]string, len(indexes))
	for i, index := range indexes {
		granted[i] = asked[index]
	}
	return granted, true
}

// put remembers a grant; granted is a subsequence of asked.
func (c *cache) put(key cacheKey, asked, granted []string) {
	entry := &cached{key: key, expires: time.Now().Add(c.ttl)}
	if len(granted) < len(asked) {
		for i, channel := range asked {
			if slices.Contains(granted, channel) {
				entry.granted = append(entry.granted, uint16(i))
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.byKey[key]; ok {
		c.remove(old)
	}
	if c.oldest.Len() == maxCached {
		c.remove(c.oldest.Front())
	}
	c.byKey[key] = c.oldest.PushBack(entry)
}

func (c *cache) expire(now time.Time) {
	for front := c.oldest.Front(); front != nil; front = c.oldest.Front() {
		if now.Before(front.Value.(*cached).expires) {
			return
		}
		c.remove(front)
	}
}

func (c *cache) remove(element *list.Element) {
	c.oldest.Remove(element)
	delete(c.byKey, element.Value.(*cached).key)
}
