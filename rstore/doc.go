// Package rstore keeps the history of ssed in Redis Streams: one stream per
// channel, every committed message once, in ID order.
//
// # Writing
//
// All instances run the same writer, a cursor on their own log standing at the
// watermark (how far the history is written, a field of the clock hash). A
// batch goes in by one script: only in the epoch the writer knows, only if the
// watermark is the one it expects. The script moves the watermark and adds the
// messages in one atomic run, so a writer that wakes up late, a request that is
// sent again after a cut connection, or two writers at once can neither
// duplicate nor reorder nor skip. What a refused writer gets back is the truth,
// and it goes on from there.
//
// A lease (a key with an expiry) keeps the others from trying. Correctness does
// not rest on it. Only an instance whose log goes on from the watermark takes it,
// writing prolongs it, and one whose log no longer covers the watermark gives it
// up at once and says so on the control channel. The states of a writer, which
// every answer of a script may change (writerState, adopt):
//
//	unknown ◀──▶ watching ◀──▶ writing
//	                 ▲            ▲
//	                 ▼            │
//	              offering ───────┘
//
//	state     what it does                          then
//	unknown   asks four times per lease             watching: Redis has a clock
//	watching  waits for its log while the lease is  writing: its log goes on from the watermark,
//	          free, else asks as often                 and it got the lease
//	                                                offering: its log goes on from higher up
//	                                                unknown: Redis lost the clock
//	offering  repeats its offer to go on behind a   writing: the offer was the lowest
//	          gap                                   watching: the watermark has moved
//	writing   sends what a tick has committed: in   watching: another one holds the lease, or it
//	          steps while Redis is near, in one        ran out; or the log lost its place
//	          pipeline when a round trip takes
//	          longer than Config.FlushInterval
//
// A stretch that no log covers gets a gap marker and the watermark moves over
// it. Instances offer the position from which they can go on; when all that are
// there have offered, or after Config.GapWait, the lowest offer wins, so the
// smallest stretch is given up. The
// same happens on an empty Redis (first start, FLUSHALL): the marker then covers
// everything before the oldest position that a log still has, and the history is
// filled again from there.
//
// The log may be of another server than the history: two primaries, for a while. What
// a server numbered counts here up to the first tick of the one that took over from it, which the
// clock has (servers, belongs in common.lua). What lies beyond is refused; Config.OnOtherServer is called,
// and the connections are made anew.
//
// What came through the inbox of rsub is not lost with a stretch: the script that
// gives it up finds the entries by their notes and adds them in their positions.
//
// The writer only reads the log. A slow or absent Redis delays nothing but the
// history; when the log has moved on meanwhile, that is a stretch like any other:
// marker, counter, error line.
//
// # Reading
//
// Store.Merge reads what a client missed on its channels, all together in order: a script
// merges the streams and returns as much as one page takes. A few messages of a few
// channels are read without it, which costs Redis less. Store.Range reads many
// channels one after the other, for a backfill, and Store.Page one channel for an
// operator.
//
// They never keep quiet about what is missing: gap markers, entries
// trimmed by length, streams that expired or were evicted, messages a stream refused (a key of
// another type, IDs added by hand), a watermark below the end of the range. The
// last also uncovers a read from a replica that lags. Every pipeline asks for all of
// that anew, with the epoch first and last: between two of them, or two commands of
// one, Redis may lose its data or a node with less of them take over.
//
// A stream that still has an entry at or before a position is complete behind it, but
// for what Redis records as trimmed or deleted. For any other the horizon decides, from
// where on absence proves that nothing was there (judge.go): the latest time that a
// tick or Redis has shown less the TTL, and never below the horizon in the clock. Who
// writes with another TTL than the one noted there, or behind somebody who noted none,
// sets that to the watermark; the tick script does the same for what was evicted.
//
// # Keys
//
// Prefix and channel name the stream of a channel, with the fields event_type
// and data, where a publisher gave them id and retry (ms), and prev (ms back to the
// channel's message before it, -1 when the writer's log does not have it). In the place of a message that was too large it
// has gap in place of event_type and data. The control keys start
// with "{" prefix "}:" and only the lease expires: clock (hash, shared with the tick
// script; here watermark, writer, ttl and horizon with horizon_mark, which tells whether
// the last writer noted them, gaps_to and holes_to, up to where the two keys below went
// should they be lost, the offer with offer_by, offer_at, offer_mark and
// offered, and who is there with there_since), writer (the lease), gaps (list of at
// most 256 markers, the oldest merged when there are more), holes (hash: streams that
// refused messages, at most 1000). Of rsub's inbox (list of notes: what was published
// of it and where) a stretch that is given up is read.
//
// # Limits
//
// One primary, found directly, through Sentinel or in a Redis Cluster. One script touches
// the streams of many channels and the control keys, so in a cluster, and of a partition
// (Config.Partition), all of them have one hash tag and lie in one slot. A Store is of one
// partition; who writes is decided for each by itself.
//
// Somebody who deletes a stream by hand removes history without a trace. Run with
// maxmemory-policy noeviction: when memory is full under that policy the script writes
// nothing at all and is sent again.
package rstore
