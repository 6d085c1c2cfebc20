//go:build linux

package swarm

import (
	"time"

	"ssed/loadtest/hist"
)

// Counts is what a swarm saw on its streams.
type Counts struct {
	// Delivered is the number of messages that arrived for the first time.
	Delivered uint64 `json:"delivered"`
	// Lost is the number of messages whose number was skipped and that did not
	// come later.
	Lost int64 `json:"lost"`
	// Duplicates came a second time, or from before the connection's start.
	Duplicates uint64 `json:"duplicates"`
	// Late came after a message with a higher number (disorder).
	Late uint64 `json:"late"`
	// Misrouted belonged to another channel than the connection's.
	Misrouted uint64 `json:"misrouted"`
	// Torn were events whose body was not as long as it says.
	Torn uint64 `json:"torn"`
	// Gaps were `event: gap` notices: the server tells of a loss.
	Gaps uint64 `json:"gaps"`
	// Foreign were events without a body of this program.
	Foreign uint64 `json:"foreign"`
	// LongIDs were event ids that a slot cannot hold; such a connection cannot resume.
	LongIDs uint64 `json:"long_ids"`
	// Closed were streams that the server ended.
	Closed uint64 `json:"closed"`
}

// Add adds the counts of other.
func (c *Counts) Add(other Counts) {
	c.Delivered += other.Delivered
	c.Lost += other.Lost
	c.Duplicates += other.Duplicates
	c.Late += other.Late
	c.Misrouted += other.Misrouted
	c.Torn += other.Torn
	c.Gaps += other.Gaps
	c.Foreign += other.Foreign
	c.LongIDs += other.LongIDs
	c.Closed += other.Closed
}

// Wrong returns the number of faults: deliveries missing, surplus, out of order
// or not as they were sent, and streams that the server ended.
func (c *Counts) Wrong() int64 {
	return c.Lost + int64(c.Duplicates+c.Late+c.Misrouted+c.Torn+c.Closed)
}

// Stats are counts with the latencies of the counted deliveries.
type Stats struct {
	Counts
	Latency hist.Histogram `json:"latency"`
}

// Add adds the counts and latencies of other.
func (s *Stats) Add(other *Stats) {
	s.Counts.Add(other.Counts)
	s.Latency.Merge(&other.Latency)
}

// memory is how many numbers, up to the newest, a connection remembers: a message
// that comes later than that counts as a duplicate, not as late.
const memory = 32

// count judges message c.seq, which was due at c.acc.
func (c *conn) count(t *Stats, now int64) {
	ahead := int32(c.seq - c.next)
	switch {
	case ahead >= 0:
		t.Lost += int64(ahead)
		c.window = shiftIn(c.window, uint32(ahead)+1)
		c.next = c.seq + 1
	case ahead >= -memory && c.window>>uint(-ahead-1)&1 == 0:
		t.Late++
		t.Lost--
		c.window |= 1 << uint(-ahead-1)
	default:
		t.Duplicates++
		return
	}
	t.Delivered++
	t.Latency.Record(time.Duration(now - int64(c.acc)))
}

// shiftIn moves the window n numbers on; only the last of them has come.
func shiftIn(window, n uint32) uint32 {
	if n >= memory {
		return 1
	}
	return window<<n | 1
}

// expect makes next the first message that is expected; nothing is missing yet.
func (c *conn) expect(next uint32) {
	c.next = next
	c.window = 1<<memory - 1
}

// audit counts what the connection has not received of the messages up to last.
func (c *conn) audit(last uint32, t *Stats) {
	if missing := int32(last + 1 - c.next); missing > 0 {
		t.Lost += int64(missing)
		c.expect(last + 1)
	}
}
