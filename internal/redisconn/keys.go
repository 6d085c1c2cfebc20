package redisconn

import (
	"strconv"
	"strings"
)

// Keys are the names in Redis that belong to one prefix.
type Keys struct {
	Prefix     string // of the streams
	Clock      string // hash: epoch, t, watermark, writer, offers, who is there
	Lease      string // string with an expiry: the instance that writes the history
	Gaps       string // list of gap markers, oldest first
	Rejected   string // hash: stream key → stretch in which the stream refused messages
	InboxNotes string // list: what was published of the inbox and where, see notes.lua of redislua
	Instances  string // sorted set: names of the instances, by expiry
	Revoked    string // hash: subject or token → until when it is kept out, see revoke.lua of fleet
	Control    string // Pub/Sub channel of the ticks
	// EarlierControl is what versions before databases were told apart have in the place
	// of Control; "" where that is the same.
	EarlierControl string
	tag            string
}

// MakeKeys names what belongs to a prefix. All but the streams have one hash tag.
func MakeKeys(prefix string) Keys {
	tag := "{" + prefix + "}"
	return Keys{
		Prefix:     prefix,
		Clock:      tag + ":clock",
		Lease:      tag + ":writer",
		Gaps:       tag + ":gaps",
		Rejected:   tag + ":holes",
		InboxNotes: tag + ":inbox",
		Instances:  tag + ":instances",
		Revoked:    tag + ":revoked",
		Control:    "__ssed:" + tag,
		tag:        tag,
	}
}

// InDatabase returns the names in a database. Pub/Sub does not know of databases, so the
// control channel has it in its name; that of database 0 is the one without.
func (k Keys) InDatabase(db int) Keys {
	if db != 0 {
		k.EarlierControl = k.Control
		k.Control += ":db" + strconv.Itoa(db)
	}
	return k
}

// Owner is the string that tells which process has the name of an instance, and how it
// is set up; Owners is what it begins with.
func (k Keys) Owner(name string) string { return k.Owners() + name }

// Owners begins the keys that Owner returns.
func (k Keys) Owners() string { return k.tag + ":owner:" }

// Stream is the stream with the history of a channel.
func (k Keys) Stream(channel string) string { return k.Prefix + channel }

// Instance is the string with the report of an instance.
func (k Keys) Instance(name string) string { return k.tag + ":instance:" + name }

// Reply is the hash with the answers to a question.
func (k Keys) Reply(nonce string) string { return k.tag + ":reply:" + nonce }

// Doctor is a key on which rights are tried.
func (k Keys) Doctor(name string) string { return k.tag + ":doctor:" + name }

// Prefixes is the sorted set of the prefixes of a database, by when their keys have gone.
const Prefixes = "ssed:prefixes"

// Refused is the stream of the entries of an inbox that could not be delivered.
func Refused(inbox string) string { return inbox + ":refused" }

// DefaultInbox is the inbox of a prefix that is given none: "sse:inbox" for "sse:stream:",
// "app:inbox" for "app:stream:", and "inbox:chat:" for "chat:".
func DefaultInbox(prefix string) string {
	if front, ok := strings.CutSuffix(prefix, "stream:"); ok {
		return front + "inbox"
	}
	return "inbox:" + prefix
}

// InboxOwner is the string with the prefix that an inbox belongs to.
func InboxOwner(inbox string) string { return inbox + ":owner" }
