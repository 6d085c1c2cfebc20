package redisconn

import (
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// Keys are the names in Redis that belong to one prefix, or to one partition of it.
type Keys struct {
	Prefix     string // of the streams; that of the fleet with the hash tag, if there is one
	Clock      string // hash: epoch, t, watermark, writer, offers, who is there
	Lease      string // string with an expiry: the instance that writes the history
	Gaps       string // list of gap markers, oldest first
	Rejected   string // hash: stream key → stretch in which the stream refused messages
	InboxNotes string // list: what was published of the inbox and where, see notes.lua of redislua
	Instances  string // sorted set: names of the instances, by expiry
	Revoked    string // hash: subject or token → until when it is kept out, see revoke.lua of fleet
	Control    string // Pub/Sub channel of the ticks
	// Messages is the shard channel of --feed=sharded, and of Redis Cluster.
	Messages string
	// Prefixes is the sorted set of the prefixes of a database, by when their keys have gone.
	Prefixes string
	// Slot is where all of it lies in a Redis Cluster.
	Slot int
	// EarlierControl is what versions before databases were told apart have in the place
	// of Control; "" where that is the same.
	EarlierControl string
	own            string // what the names of all keys but the streams begin with
	inboxTag       string // behind the name of an inbox
}

// KeysOf names what belongs to a partition of a prefix where o leads to.
func KeysOf(o rueidis.ClientOption, prefix string, p Partition) Keys {
	if p.IsWhole() && !IsCluster(o) {
		return MakeKeys(prefix).InDatabase(o.SelectDB)
	}
	return MakePartitionKeys(prefix, p).InDatabase(o.SelectDB)
}

// prefixes is the name of Keys.Prefixes, without a hash tag.
const prefixes = "ssed:prefixes"

// MakeKeys names what belongs to a prefix on a single server. All but the streams have
// the prefix as their hash tag.
func MakeKeys(prefix string) Keys {
	k := makeKeys(prefix, "{"+prefix+"}")
	k.Prefixes = prefixes
	k.Messages, k.Slot = messages(prefix, wholeTag), SlotOf(wholeTag)
	return k
}

// MakePartitionKeys names what belongs to a partition of a prefix. All names have its hash
// tag: a script of ssed touches one slot of a Redis Cluster. As a prefix has no braces,
// a stream has never the name of another key, nor of a stream of another prefix.
func MakePartitionKeys(prefix string, p Partition) Keys {
	tag := p.Tag()
	k := makeKeys(prefix+"{"+tag+"}", "{"+tag+"}"+prefix)
	k.Prefixes, k.inboxTag = "{"+tag+"}"+prefixes, ":{"+tag+"}"
	k.Messages, k.Slot = messages(prefix, tag), SlotOf(tag)
	return k
}

func makeKeys(streams, own string) Keys {
	return Keys{
		Prefix:     streams,
		Clock:      own + ":clock",
		Lease:      own + ":writer",
		Gaps:       own + ":gaps",
		Rejected:   own + ":holes",
		InboxNotes: own + ":inbox",
		Instances:  own + ":instances",
		Revoked:    own + ":revoked",
		Control:    "__ssed:" + own,
		own:        own,
	}
}

// messages is the shard channel of a prefix: "sse:{8209}" for "sse:stream:", "app:{8209}"
// for "app:stream:", and "messages:chat:{8209}" for "chat:".
func messages(prefix, tag string) string {
	if front, ok := strings.CutSuffix(prefix, "stream:"); ok {
		return front + "{" + tag + "}"
	}
	return "messages:" + prefix + "{" + tag + "}"
}

// SharesMessages returns the other prefix that has the same shard channels, if there is one:
// "messages:chat:stream:" has those of "chat:". Of such two this one is refused.
func SharesMessages(prefix string) (other string, ok bool) {
	front, isLong := strings.CutSuffix(prefix, "stream:")
	other, ok = strings.CutPrefix(front, "messages:")
	ok = ok && isLong && other != "" && !strings.HasSuffix(other, "stream:")
	return other, ok
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

// Own is what all keys but the streams and the inbox begin with.
func (k Keys) Own() string { return k.own + ":" }

// Owner is the string that tells which process has the name of an instance, and how it
// is set up; Owners is what it begins with.
func (k Keys) Owner(name string) string { return k.Owners() + name }

// Owners begins the keys that Owner returns.
func (k Keys) Owners() string { return k.own + ":owner:" }

// Stream is the stream with the history of a channel.
func (k Keys) Stream(channel string) string { return k.Prefix + channel }

// Instance is the string with the report of an instance.
func (k Keys) Instance(name string) string { return k.own + ":instance:" + name }

// Reply is the hash with the answers to a question.
func (k Keys) Reply(nonce string) string { return k.own + ":reply:" + nonce }

// Doctor is a key on which rights are tried.
func (k Keys) Doctor(name string) string { return k.own + ":doctor:" + name }

// Inbox is the key of the inbox that is configured by this name.
func (k Keys) Inbox(name string) string { return name + k.inboxTag }

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
