package rsub

import (
	"errors"
	"strconv"
	"strings"

	"ssed/sseproto"
)

// First words of control messages.
const (
	wordTick          = "tick"
	wordLeaseReleased = "free"
	wordSent          = "sent"
)

// ownWord reports whether control messages with this first word are not notices.
func ownWord(word string) bool {
	return word == wordTick || word == wordLeaseReleased || word == wordSent
}

// linksMissing is in the place of tick.links while a node of the cluster has no link.
const linksMissing = "-"

var errTick = errors.New("rsub: malformed tick")

// tick is a place in the order of messages.
type tick struct {
	t           uint64 // ms; greater than that of every earlier tick
	epoch       string // another one means that Redis lost its data
	watermark   sseproto.ID
	fingerprint string
	node        string // run_id of the server that ran the script
	checksum    interval
	caller      string
	batch       string // ids of the entries of the inbox right behind it, with commas between
	links       string // of a cluster: another one when a node's link to this one is another, or linksMissing. "" where nothing comes by it
	line        string // master_replid of a node of a cluster: the term of who is promoted in its place. "" elsewhere
	term        string // master_replid2 of the server: another one with each promotion. "" from earlier versions
	servers     servers
	strays      strays // "" where nothing can come late by the bus
}

// strays is how many messages of shard channels have come to a node by the bus of the cluster.
// It is told while a primary that was replaced may send some late, because it was frozen or the
// network divided: they would be numbered anew. At other times backends publish them on replicas.
type strays string

// came tells whether some have come since an earlier count.
func (s strays) came(since strays) bool { return s != "" && since != "" && s != since }

// entries returns how many messages right behind the tick are of the inbox.
func (t *tick) entries() uint64 {
	if t.batch == "" {
		return 0
	}
	return 1 + uint64(strings.Count(t.batch, ","))
}

// parseTick reads the text of a control message:
//
//	tick <t> <epoch> <watermark> <fingerprint> <node> <checksum> <caller> [<batch> [<term> [<links> <line> [<servers> [<strays>]]]]]
//
// A word that is not told is empty, between two spaces, where others follow. Further words are left for later versions.
func parseTick(s string) (tick, error) {
	w := strings.Split(s, " ")
	if len(w) < 8 || w[0] != wordTick {
		return tick{}, errTick
	}
	t, err := strconv.ParseUint(w[1], 10, 64)
	watermark, err2 := sseproto.ParseID(w[3])
	checksum, err3 := parseInterval(w[6])
	if err != nil || err2 != nil || err3 != nil || t == 0 {
		return tick{}, errTick
	}
	w = append(w, "", "", "", "", "", "")
	return tick{
		t: t, epoch: w[2], watermark: watermark, fingerprint: w[4], node: w[5], checksum: checksum,
		caller: w[7], batch: w[8], term: w[9], links: w[10], line: w[11], servers: servers(w[12]), strays: strays(w[13]),
	}, nil
}
