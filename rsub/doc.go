// Package rsub is the ordered Redis feed: it subscribes to patterns and gives
// every message a position that is the same on every instance.
//
// # Order
//
// Redis hands the Pub/Sub messages of one node to all subscribers in one total
// order. A tick is a message in that order: a script on the server computes a
// strictly increasing t and publishes it on a control channel. The ID of a
// message is the t of the latest tick and the number of messages since, so all
// instances that saw the same tick number alike from there on. About ten ticks
// per second are sent in all, by whichever instance leads; a joiner sends one at
// once. If the leader falls silent another takes over after three intervals.
//
// # What the sink is told
//
// OpenSpan at the first tick of a subscription, Append for every message,
// Commit at every further tick, CloseSpan when the subscription was lost and what
// of it counts is known: see Loss. Within a
// span nothing is missing. Messages before the first tick have no position and
// are not given on. With two feeds a span lives as long as one of them does.
//
// With Config.Sharded all messages come on one shard channel, as the name of the channel, a
// line feed and the payload. Number first, filter after: a message over the size limit keeps its number, and
// the sink gets its place alone. Only channels that begin with "__" have no number.
//
// # Partitions
//
// With Config.Partition a Feed is of one part of the channels, in a hash slot of its own:
// clock, control channel, shard channel and inbox have its tag in their names, and nothing is
// shared with the feeds of the other parts. A message that belongs to another part has a number,
// like all that comes, and is left out. Nobody has to lead the ticks of all parts: an instance that
// leads many leaves a clock without a leader to others for a little longer (Elsewhere), and
// Yield gives one up.
//
// # Cluster
//
// In a Redis Cluster all keys and the shard channel have one hash tag, and all subscriptions
// hang on the primary of its slot. When that node gives the slot away it unsubscribes the
// shard channel, and when it is demoted ticks of another node come: the connection is cut
// and made again, to the primary that is found then. Without Config.Sharded messages come
// from all nodes, by links that may break while the connection stands. The tick carries a
// hash of these links; another one than before ends the span at the tick before, and this
// tick opens the next one.
//
// # Publishing
//
// Publish runs a script that puts a notice on the control channel and the message
// right behind it: what follows the notice on a feed is ours, and its number is
// the answer. The notice names its node; a feed that hangs on another one does not
// answer. So an ID that is told is the one that every instance gives, or there is none.
//
// # Batches
//
// A message of Config.BatchChannel carries many. They are numbered one by one, those too
// that no pattern matches: how many there are depends on the bytes alone, so all instances
// count alike. What cannot be read at its end has no number. Publish and the inbox put
// what goes out together into batches.
//
// # Inbox
//
// With Config.Inbox the tick script also moves what backends XADD to a stream: it
// publishes the next entries right behind a tick, in the same run, so the n-th has
// the position t-n. They stay in the stream, named by a note, until the watermark of
// the history has passed them. Whoever moves the watermark over a stretch that nobody
// saw puts what the notes name there into the history. A tick also tells the entries
// behind it: instances remember them, for a server that takes over without knowing.
//
// # Loss
//
// A lost connection ends the span with the last message that came: what came
// before the end of the stream is a prefix without holes. A tick of another node
// means that the connection hangs on a demoted primary, whose messages come by
// replication and with holes: the span ends with the last tick of its own node.
// A connection that is lost may have hung there too, with that tick still unread.
// So its span is held until the next one begins: if that is of another node, the
// lost one ends with its last tick as well, which takes back at most what came
// within one interval. A restart of Redis is another node.
// A server that was silent for most of Config.ProbeTimeout and sends a tick then may have
// been frozen and replaced: the tick ends the span like a lost connection.
//
// # Two primaries
//
// A server that is replaced may live on, and instances that hang on it go on to number what
// comes there. So the first tick of a server that takes over leaves it room: it lies
// takeOverRoom beyond all positions that the new server and the caller know of. Until the clock of
// the former one has come to that, all IDs that it gives out lie before those of its successor, in
// the stretch that nobody saw there: an instance that comes over finds a discontinuity, and who
// comes from there with an ID is told of the gap. A former server does not use the room up by itself:
// its tick script refuses a caller that hangs on the successor and has seen its ticks.
//
// The clock notes the servers and their first ticks (type servers), and ticks tell them. A span
// of a former server counts up to the first tick of the next one, however long it lived on. The
// history refuses what lies beyond (ServerOf), and then the feed looks for the primary anew
// (Recheck).
//
// A connection on which a published tick does not come back is cut. All of them
// are made again, for ever, with backoff; State tells what is missing meanwhile.
//
// # States
//
// A subscription is one connection at a time (type subscription, whose sequencer has
// the states in parentheses). What ends a state is at its arrow:
//
//	             all subscribed            first tick
//	down ─────────────────────▶ unsynced ─────────────▶ synced ──┐ tick: commit
//	 ▲  ▲                        │    ▲                  │  │  ◀──┘
//	 │  └─ tick of another node ─┘    └─ tick that goes ─┘  │
//	 │     (disconnect)                  back (lose)        │
//	 ├── connection lost, probe timeout, shutdown (lose) ───┤
//	 └── tick of another node, replica (end) ───────────────┘
//
// lose and end close the span. After end it is known that only what was committed
// counts. After lose it is undecided: the first tick of the next span decides, by its
// node.
//
// With two of them, the merger has a port for each:
//
//	closed ──span opens──▶ waiting ──the head has come to where it began──▶ covering
//	   ▲                     │  ▲                                             │
//	   │     buffers too much│  │ next tick                   the span was    │
//	   │                     ▼  │                             truncated       │
//	   │                    detached ◀────────────────────────────────────────┤
//	   └──────────────────── span ends (from every state) ────────────────────┘
//
// An entry of the inbox:
//
//	waiting ──asked for by the leader──▶ judged ──tick──▶ published, in a note
//	   ▲                                   │                │            │
//	   │                        no verdict │   the watermark│            │ the server forgot it
//	   │                          (refused)│     has passed │            ▼ (failover)
//	   │                                   ▼                ▼         waiting, reclaimed
//	   │                               set aside         deleted      by who remembers:
//	   │                                                    ▲          │           │
//	   │                                                    └─ history ┘           │
//	   │                                                       has it              │
//	   └──────────────── written beyond its position without it ───────────────────┘
//
// # Locks
//
// hooks.mu is held by the read loop of a connection during a call; then merger.mu
// during the calls of the sink, which has its own. All other mutexes (results.mu,
// seen.mu, reached.mu, origins.mu, inboxMemories.mu, finding.mu) are leaves: nobody takes another
// lock or calls out while holding one.
//
// # Limits
//
// Redis 7.0 or newer with RESP3 (script flags let ticks go on when maxmemory is
// reached). What is published while no instance is subscribed is gone: that is
// Pub/Sub. Who may publish on the control channel is trusted.
package rsub
