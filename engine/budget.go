package engine

// cost is an estimate of work, in nanoseconds. It is made from counts, not from a clock:
// what a pass does is the same on a slow machine and on a busy one, and in a test.
type cost int64

// What one unit of work costs. Measured on two cores (Xeon, virtual) over loopback, and
// rounded: a send takes 4 to 7 µs, of which the bytes are a quarter of a nanosecond each; closing or
// registering a descriptor takes 1 to 8 µs; a record of the ring that is in no cache takes up to
// 100 ns, one that is in the cache 2 ns.
//
// Bytes beyond what a reader's system takes at once stay in the kernel, and cost more: with
// the smallest window it keeps them in pieces of 1 KB. Of a write of 256 KiB (EPYC, virtual) a
// byte takes 0.8 to 1.7 ns then, and 6 where the system has to find fresh memory; with a usual
// window 0.1 ns.
const (
	callCost     cost = 4000
	bytesPerCost      = 4
	queuedCost   cost = 1
	lookCost     cost = 15
	slotCost     cost = 15
	usualWindow       = 64 << 10 // of a reader that has just come, on Linux
	// subscribeLooks is what taking up or giving back one subscription counts as: the
	// directory's lock and map.
	subscribeLooks = 8
)

// work counts what a reader of the log has done since it began. Whatever can take long
// is counted here and nowhere else, also what makes no system call.
type work struct {
	writes int64 // system calls that write to streams
	bytes  int64 // written by them
	queued int64 // of these bytes: beyond usualWindow in one write
	calls  int64 // other system calls on streams
	looks  int64 // records of the ring and subscriptions looked at
	slots  int64 // slots visited
}

func (w *work) cost() cost {
	return cost(w.writes+w.calls)*callCost + cost(w.bytes/bytesPerCost) + cost(w.queued)*queuedCost +
		cost(w.looks)*lookCost + cost(w.slots)*slotCost
}

// budget bounds the work of one stage of a pass. A stage does one thing at least, and
// stops behind the first one with which its share is spent: the rest is done in the next
// pass. So a pass takes no longer than all shares and one thing of each stage together.
type budget struct {
	work
	limit cost
}

// begin gives the next stage its share.
func (b *budget) begin(share cost) { b.limit = b.cost() + share }

func (b *budget) spent() bool { return b.cost() >= b.limit }

// shares are the budgets of the stages of a pass, in the order of the stages. Small
// channels come first. All together are 8 ms, which only a loop that has too much of
// everything takes.
type shares struct {
	admit  cost // new connections: descriptor and subscriptions
	walk   cost // slots that are closed at a barrier, or looked at after an overrun
	small  cost // messages of small channels
	merge  cost // live slots that get messages of several channels at once
	answer cost // heads, and what the ring has for a resume
	pages  cost // histories that were read
	ahead  cost // resumes that waited for the log
	events cost // what the kernel tells
	late   cost // slots that are behind
	paced  cost // slots that wait until their clients have read
	large  cost // messages of large channels: some 100 writes
	asks   cost // questions about connections, and streams that an operator closes
	sweep  cost // heartbeats, expiry, slow readers, drain
}

const millisecond cost = 1_000_000

var defaultShares = shares{
	admit: millisecond / 2, walk: millisecond, small: millisecond, merge: millisecond / 2, answer: millisecond / 2,
	pages: millisecond / 2, ahead: millisecond / 4, events: millisecond / 2, late: millisecond, paced: millisecond / 4, large: 2 * millisecond / 5,
	asks: millisecond / 2, sweep: millisecond,
}
