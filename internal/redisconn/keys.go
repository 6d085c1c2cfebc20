package redisconn

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
	tag        string
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

// Stream is the stream with the history of a channel.
func (k Keys) Stream(channel string) string { return k.Prefix + channel }

// Instance is the string with the report of an instance.
func (k Keys) Instance(name string) string { return k.tag + ":instance:" + name }

// Reply is the hash with the answers to a question.
func (k Keys) Reply(nonce string) string { return k.tag + ":reply:" + nonce }

// Doctor is a key on which rights are tried.
func (k Keys) Doctor(name string) string { return k.tag + ":doctor:" + name }

// Refused is the stream of the entries of an inbox that could not be delivered.
func Refused(inbox string) string { return inbox + ":refused" }
