package rsub

import (
	"strconv"
	"strings"
	"sync"
)

// inboxMemories are the batches of the inbox that this instance saw announced, so
// that a server which has forgotten them can be told. Ready when zero.
type inboxMemories struct {
	mu      sync.Mutex  // guards the rest
	batches []announced // ascending
	entries int
}

// announced is what a tick said of the entries behind it.
type announced struct {
	t    uint64
	node string // run_id of the server that knows of it
	ids  string
}

func (a *announced) entries() int { return 1 + strings.Count(a.ids, ",") }

// note takes a tick. Those without a batch are passed over, those of a second feed
// come again.
func (m *inboxMemories) note(t tick) {
	if t.batch == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.batches); n > 0 && m.batches[n-1].t >= t.t {
		return
	}
	a := announced{t.t, strings.Clone(t.node), strings.Clone(t.batch)}
	m.batches, m.entries = append(m.batches, a), m.entries+a.entries()
	for m.entries > inboxMemory && len(m.batches) > 1 {
		m.entries -= m.batches[0].entries()
		m.batches = m.batches[1:]
	}
}

// reclaims returns t and ids of the oldest batches that another server than node has
// published, with reclaimEntries entries or as many as one batch has, and the t of the
// newest of them. With "" for node there are none.
func (m *inboxMemories) reclaims(node string) (words []string, newest uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := reclaimEntries
	for _, a := range m.batches {
		if node != "" && a.node != node {
			if left -= a.entries(); left < 0 && newest != 0 {
				break
			}
			words, newest = append(words, strconv.FormatUint(a.t, 10), a.ids), a.t
		}
	}
	return words, newest
}

// hasReclaims reports whether there are reclaims on node.
func (m *inboxMemories) hasReclaims(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.batches {
		if a.node != node {
			return true
		}
	}
	return false
}

// acknowledge notes that node has got its reclaims up to the one of tick t.
func (m *inboxMemories) acknowledge(node string, t uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.batches {
		if m.batches[i].t <= t {
			m.batches[i].node = node
		}
	}
}
