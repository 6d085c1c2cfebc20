package engine

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"ssed/sseproto"
)

// channel is what all shards and the log share about one channel name.
type channel struct {
	last   atomic.Uint64 // position of its newest message, 0: none since the record exists
	shards atomic.Uint64 // bit i: shard i mod 64 has a subscriber
	name   string        // fixed while the record is in use
	subs   uint32        // guarded by directory.mu: subscriptions over all shards
	slow   Slow          // fixed while the record is in use: its policy
	part   uint8         // fixed while the record is in use: its partition
}

// noChannel is index 0, which is never given out.
const noChannel = 0

type channelChunk [chunkSize]channel

// channelTable is replaced by a larger one when it is full; a chunk without records in
// use is nil.
type channelTable []atomic.Pointer[channelChunk]

// goneChannel is what a reader finds that has kept an index of a chunk that is gone.
var goneChannel channel

// freedChannel is an index that may be given out again once no reader can meet
// a message of the former channel any more. Shards would do without the wait, as
// they subscribe between their views; ReadCommitted asks for names in the middle of one.
type freedChannel struct {
	index uint32
	after uint64 // positions below may still carry the index
}

// directory names channels by small numbers. A record lives as long as somebody
// subscribes or the ring holds a message of it; its memory is given back.
type directory struct {
	// fixed after construction
	log      *Log
	policies []Policy
	seed     maphash.Seed

	table atomic.Pointer[channelTable]

	mu      sync.Mutex
	names   [nameParts]namePart
	named   int // records in use
	indexes indexes
	totals  []int64 // subscriptions, by partition
	freed   queue[freedChannel]
	busy    uint32 // index of the message being appended: not to be freed meanwhile
}

// nameParts divides the names, so that giving back memory of one part takes some 100 µs
// where a million names were there.
const nameParts = 256

// namePart maps some names to indexes. Go's maps keep the memory of their best days.
type namePart struct {
	index map[string]uint32
	most  int // since the map was made
}

func (p *namePart) add(name string, index uint32) {
	if p.index == nil {
		p.index = make(map[string]uint32)
	}
	p.index[name] = index
	p.most = max(p.most, len(p.index))
}

func (p *namePart) remove(name string) {
	delete(p.index, name)
	n := len(p.index)
	switch {
	case n == 0:
		p.index = nil
	case p.most < 64 || n > p.most/4:
		return
	default:
		smaller := make(map[string]uint32, n)
		for name, index := range p.index {
			smaller[name] = index
		}
		p.index = smaller
	}
	p.most = n
}

func newDirectory(l *Log) *directory {
	d := &directory{log: l, seed: maphash.MakeSeed(), totals: make([]int64, 1)}
	d.table.Store(&channelTable{})
	d.takeLocked() // noChannel
	return d
}

// at returns the record of an index. It is nobody's when the index is not in use.
func (d *directory) at(index uint32) *channel {
	if chunk := (*d.table.Load())[index/chunkSize].Load(); chunk != nil {
		return &chunk[index%chunkSize]
	}
	return &goneChannel
}

// touch returns the index of name for a new message, making a record if needed.
// The record stays until the next touch even if its last subscriber leaves.
func (d *directory) touch(name string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releaseLocked()
	d.busy = d.lookupLocked(name)
	return d.busy
}

// subscribe counts a subscription of name and returns its index.
func (d *directory) subscribe(name string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	index := d.lookupLocked(name)
	ch := d.at(index)
	ch.subs++
	d.totals[ch.part]++
	return index
}

// unsubscribe takes a subscription back.
func (d *directory) unsubscribe(index uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ch := d.at(index)
	ch.subs--
	d.totals[ch.part]--
	d.dropLocked(index)
}

// evicted tells that the newest message of a channel may have left the ring.
func (d *directory) evicted(index uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = noChannel // room is made between messages; the newest itself may have left
	d.dropLocked(index)
}

// nameOf returns the name of a channel that the ring holds a message of; not ok
// when that message has just left.
func (d *directory) nameOf(index uint32) (name string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = d.at(index).name
	return name, name != ""
}

// find returns the index of name, if it has a record.
func (d *directory) find(name string) (index uint32, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	index, ok = d.namesWith(name).index[name]
	return index, ok
}

func (d *directory) namesWith(name string) *namePart {
	return &d.names[d.hash(name)%nameParts]
}

// partOf is the partition of a channel.
func (d *directory) partOf(name string) uint8 {
	if n := len(d.totals); n > 1 {
		return uint8(sseproto.PartitionOf(name, n))
	}
	return 0
}

// hash is another one in each process: nobody can choose names that go together.
func (d *directory) hash(name string) uint64 { return maphash.String(d.seed, name) }

// subscribers is the number of subscriptions of the record at index.
func (d *directory) subscribers(index uint32) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(d.at(index).subs)
}

// subscriptions counts those of all names. The lock is given back now and then, as
// appends need it.
func (d *directory) subscriptions(names []string) (n int64) {
	for part := range slices.Chunk(names, chunkSize) {
		d.mu.Lock()
		for _, name := range part {
			if index, ok := d.namesWith(name).index[name]; ok {
				n += int64(d.at(index).subs)
			}
		}
		d.mu.Unlock()
	}
	return n
}

// look visits some of the records in use, from index from on, and returns where
// to go on; 0 at the end. Visit is called with the lock held.
func (d *directory) look(from uint32, visit func(index uint32, ch *channel)) (next uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	end := d.indexes.end()
	next = min(from+chunkSize, end)
	for i := from; i < next; i++ {
		if ch := d.at(i); ch.name != "" {
			visit(i, ch)
		}
	}
	if next == end {
		return 0
	}
	return next
}

// divide makes it one of several partitions. Only before it is used.
func (d *directory) divide(partitions int) { d.totals = make([]int64, partitions) }

// hasSubscribers reports whether anybody subscribes to anything of a partition.
func (d *directory) hasSubscribers(part uint8) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.totals[part] > 0
}

// subscribed returns the names of a partition that have a subscriber. Those that come or go
// meanwhile may be among them.
func (d *directory) subscribed(part uint8) (names []string) {
	for next := uint32(noChannel + 1); next != 0; {
		next = d.look(next, func(_ uint32, ch *channel) {
			if ch.subs > 0 && ch.part == part {
				names = append(names, ch.name)
			}
		})
	}
	return names
}

// len is the number of records in use.
func (d *directory) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.named
}

func (d *directory) lookupLocked(name string) uint32 {
	names := d.namesWith(name)
	if index, ok := names.index[name]; ok {
		return index
	}
	index := d.takeLocked()
	ch := d.at(index)
	// The record is unused: no reader looks at the name of an index without messages or subscribers.
	ch.name = strings.Clone(name) // names may alias a request or a Redis reply
	ch.last.Store(0)
	ch.shards.Store(0)
	ch.subs = 0
	ch.slow = slowOf(d.policies, ch.name)
	ch.part = d.partOf(ch.name)
	names.add(ch.name, index)
	d.named++
	return index
}

// takeLocked returns an index whose record may be used.
func (d *directory) takeLocked() uint32 {
	d.releaseLocked()
	index, fresh := d.indexes.take()
	if !fresh {
		return index
	}
	table := *d.table.Load()
	n := int(index / chunkSize)
	if n >= len(table) {
		grown := make(channelTable, max(2*len(table), n+1))
		for k := range table {
			grown[k].Store(table[k].Load())
		}
		table = grown
		d.table.Store(&grown)
	}
	table[n].Store(new(channelChunk))
	return index
}

// dropLocked frees a record that has neither subscribers nor messages in the
// ring. The tail is read under the lock: of a last subscriber that leaves and a
// last message that is evicted, the second one sees both gone.
func (d *directory) dropLocked(index uint32) {
	ch := d.at(index)
	if ch.subs > 0 || index == d.busy || ch.last.Load() >= d.log.tail.Load() || ch.name == "" {
		return
	}
	d.namesWith(ch.name).remove(ch.name)
	d.named--
	ch.name = ""
	d.freed.push(freedChannel{index: index, after: d.log.head.Load()})
	d.releaseLocked()
}

// releasesAtOnce bounds the indexes that one call releases: more than become free in one.
const releasesAtOnce = 4

// releaseLocked gives back indexes that no reader can meet any more.
func (d *directory) releaseLocked() {
	for n := 0; n < releasesAtOnce && !d.freed.empty() && d.freed.first().after <= d.log.safePosition(); n++ {
		index := d.freed.pop().index
		if d.indexes.put(index) {
			(*d.table.Load())[index/chunkSize].Store(nil)
		}
	}
}
