//go:build linux

package swarm

// idBytes holds the last event id and the id of the block being read: ids up to
// 42 bytes in any case, longer ones when they alternate with shorter.
const idBytes = 85

// connState is where a connection stands.
type connState uint8

const (
	stateIdle    connState = iota // no descriptor
	stateConnect                  // connect(2) is under way, or the request could not be written yet
	stateHead                     // the request is sent, the response head is being read
	stateStream                   // events are being read
	statePaused                   // established, deliberately not read
	stateClosed                   // the server ended the stream; the descriptor is closed
)

// conn is one connection: 128 bytes without a pointer, so an array of them is
// one allocation that the garbage collector does not scan.
type conn struct {
	// acc is the number being read: the start of the connect, then a field of
	// the body; after the last field, the time the message was due.
	acc     uint64
	fd      int32
	channel uint32
	next    uint32 // the message number expected next
	seq     uint32 // the message number being read
	window  uint32 // bit k: number next-1-k has come
	left    uint32 // body bytes still to come; in the head, the status code
	chunk   uint32 // bytes left of a chunk; the size while it is being read
	state   connState
	phase   phase
	framing framing
	pos     uint8 // progress inside a name, a number or a match
	flags   flags
	idLen   uint8 // ids[:idLen] is the last event id
	newLen  uint8 // ids[idLen:idLen+newLen] is the id of the block being read
	ids     [idBytes]byte
}

// flags of the block being read.
type flags uint8

const (
	flagBody   flags = 1 << iota // a whole body was read
	flagTorn                     // a body began and did not end as it says
	flagData                     // there is a data line
	flagGap                      // the event type is gap
	flagID                       // there is an id line
	flagLongID                   // the id does not fit
	flagStray                    // the body names another channel
)

// appendID extends the id of the block; flagLongID tells that there was no room.
func (c *conn) appendID(b byte) {
	if int(c.idLen)+int(c.newLen) == idBytes {
		c.flags |= flagLongID
		return
	}
	c.ids[c.idLen+c.newLen] = b
	c.newLen++
}

// commitID makes the id of the finished block the last event id.
func (c *conn) commitID(t *Stats) {
	if c.flags&flagID == 0 {
		return
	}
	if c.flags&flagLongID != 0 {
		t.LongIDs++
		c.idLen, c.newLen = 0, 0
		return
	}
	copy(c.ids[:], c.ids[c.idLen:c.idLen+c.newLen])
	c.idLen, c.newLen = c.newLen, 0
}

// lastID returns the last event id; it aliases the slot.
func (c *conn) lastID() []byte { return c.ids[:c.idLen] }

// restart prepares the slot for a new response on the same channel. The last
// event id and the expected number stay.
func (c *conn) restart() {
	c.phase, c.framing, c.flags = headStatus, framingClose, 0
	c.pos, c.newLen = 0, 0
	c.left, c.chunk = 0, 0
}
