package engine

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// channel is what all shards and the log share about one channel name.
type channel struct {
	last   atomic.Uint64 // position of its newest message, 0: none since the record exists
	shards atomic.Uint64 // bit i: shard i mod 64 has a subscriber
	name   string        // fixed while the record is in use
	subs   uint32        // guarded by directory.mu: subscriptions over all shards
}

const (
	channelChunk = 1024 // records allocated together; they never move
	noChannel    = 0    // index 0 is never given out
)

type channelTable []*[channelChunk]channel

// freedChannel is an index that may be given out again once no reader can meet
// a message of the former channel any more. Shards would do without the wait, as
// they subscribe between their views; ReadCommitted asks for names in the middle of one.
type freedChannel struct {
	index uint32
	after uint64 // positions below may still carry the index
}

// directory names channels by small numbers. A record lives as long as somebody
// subscribes or the ring holds a message of it.
type directory struct {
	log   *Log // fixed after construction
	table atomic.Pointer[channelTable]

	mu    sync.Mutex
	index map[string]uint32
	used  uint32 // indexes below were given out at least once
	total int64  // subscriptions
	freed []freedChannel
	busy  uint32 // index of the message being appended: not to be freed meanwhile
}

func newDirectory(l *Log) *directory {
	d := &directory{log: l, index: make(map[string]uint32), used: noChannel + 1}
	d.table.Store(&channelTable{new([channelChunk]channel)})
	return d
}

// at returns the record of an index in use.
func (d *directory) at(index uint32) *channel {
	return &(*d.table.Load())[index/channelChunk][index%channelChunk]
}

// touch returns the index of name for a new message, making a record if needed.
// The record stays until the next touch even if its last subscriber leaves.
func (d *directory) touch(name string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = d.lookupLocked(name)
	return d.busy
}

// subscribe counts a subscription of name and returns its index.
func (d *directory) subscribe(name string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	index := d.lookupLocked(name)
	d.at(index).subs++
	d.total++
	return index
}

// unsubscribe takes a subscription back.
func (d *directory) unsubscribe(index uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ch := d.at(index)
	ch.subs--
	d.total--
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
	index, ok = d.index[name]
	return index, ok
}

// subscribers is the number of subscriptions of the record at index.
func (d *directory) subscribers(index uint32) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(d.at(index).subs)
}

// subscriptions counts those of all names. The lock is given back now and then, as
// appends need it.
func (d *directory) subscriptions(names []string) (n int64) {
	for part := range slices.Chunk(names, channelChunk) {
		d.mu.Lock()
		for _, name := range part {
			if index, ok := d.index[name]; ok {
				n += int64(d.at(index).subs)
			}
		}
		d.mu.Unlock()
	}
	return n
}

// look visits a chunk of the records in use, from index from on, and returns where
// to go on; 0 at the end. Visit is called with the lock held.
func (d *directory) look(from uint32, visit func(index uint32, ch *channel)) (next uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next = min(from+channelChunk, d.used)
	for i := from; i < next; i++ {
		if ch := d.at(i); ch.name != "" {
			visit(i, ch)
		}
	}
	if next == d.used {
		return 0
	}
	return next
}

// hasSubscribers reports whether anybody subscribes to anything.
func (d *directory) hasSubscribers() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total > 0
}

// subscribed returns the names that have a subscriber. Those that come or go meanwhile
// may be among them.
func (d *directory) subscribed() (names []string) {
	for next := uint32(noChannel + 1); next != 0; {
		next = d.look(next, func(_ uint32, ch *channel) {
			if ch.subs > 0 {
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
	return len(d.index)
}

func (d *directory) lookupLocked(name string) uint32 {
	if index, ok := d.index[name]; ok {
		return index
	}
	index := d.takeLocked()
	ch := d.at(index)
	// The record is unused: no reader looks at the name of an index without messages or subscribers.
	ch.name = strings.Clone(name) // names may alias a request or a Redis reply
	ch.last.Store(0)
	ch.shards.Store(0)
	ch.subs = 0
	d.index[ch.name] = index
	return index
}

func (d *directory) takeLocked() uint32 {
	if len(d.freed) > 0 && d.freed[0].after <= d.log.safePosition() {
		index := d.freed[0].index
		d.freed = d.freed[1:]
		return index
	}
	index := d.used
	d.used++
	if table := *d.table.Load(); index/channelChunk == uint32(len(table)) {
		grown := append(append(channelTable(nil), table...), new([channelChunk]channel))
		d.table.Store(&grown)
	}
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
	delete(d.index, ch.name)
	ch.name = ""
	d.freed = append(d.freed, freedChannel{index: index, after: d.log.head.Load()})
}
