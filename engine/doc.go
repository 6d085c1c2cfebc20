// Package engine serves event streams from one ordered log. Its front, a package
// within, accepts connections and reads their requests.
//
// Its promises:
//
//   - One Log per process: a ring of encoded frames in the order of their IDs.
//     Everything else is a cursor on it. A frame is encoded once; there is no
//     queue per connection and no second copy of a message.
//   - A subscriber gets each message of its channels once, in order, or an
//     event: gap. A resume is served by the ring, or by the History up to the
//     ring; what is lost is told.
//   - A reader that does not read delays nobody. When its next message leaves the
//     ring it is closed, and may resume. Of channels whose Policy says so it gets the newest
//     message alone, or it is closed at once.
//   - A pass of a loop does bounded work, whatever clients do (budget), and small
//     channels come first. Nothing that a client can repeat costs by the size of the
//     ring.
//   - An idle connection owns no buffer and no goroutine: a slot, a subscription
//     and a descriptor parked in the epoll of its shard. Delivering a message and
//     looking after an idle connection allocate nothing.
//   - One owner closes a descriptor: netpoll while the request is read, then the
//     shard. Slots carry a generation, so that an event or an answer meant for a
//     former owner is dropped.
//   - Memory is bounded: the ring by Config.RingBytes, what waits during a
//     backfill by half of it, pages of history by Config.HistoryReaders, heads by
//     16 KiB each.
//
// Operators ask the loops through their inboxes: a loop answers in parts of bounded
// size and waits for nobody (Engine.Connections, Engine.CloseConnection); what is asked
// about channels is read from the ring like by any other reader, without its lock.
//
// A Log is written by one feed and read without locks: by the shards, one event
// loop each, by one history writer, and by one look at the channels at a time. See view
// and reader for how the memory of the ring is reused under their eyes, slotPhase for
// the states of a connection, and job for how a message gets to the members of its channel.
//
// The source of the wire format is the HTML standard, §9.2, and RFC 9112.
package engine
