package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// scratchMs is the expiry of the keys that are tried on, should the doctor be ended
// before it deletes them.
const scratchMs = "10000"

// trial is a command that ssed uses, on something where it does no harm.
type trial struct {
	right string // what to give to the user
	args  []string
}

// purpose is what commands are for. Streams work without those of the later ones.
type purpose struct {
	check  string
	status Status // where one is refused
	keys   []string
	trials []trial
}

// rights tries every command that ssed uses, with the user that ssed has.
func (d *redisDoctor) rights(ctx context.Context) {
	const check = "redis rights"
	if d.info["role"] != "" && d.info["role"] != "master" {
		d.skip(check, "a replica takes no writes")
		return
	}
	nonce := strings.ToLower(rand.Text()[:8])
	channels, err := d.trySubscriptions(ctx)
	if err != nil {
		d.fail(check, "subscribing failed: "+err.Error(), "")
		return
	}
	for _, p := range d.purposes(nonce) {
		missing, err := d.try(ctx, p.trials)
		missing, channels = append(missing, channels...), nil
		switch {
		case err != nil:
			d.say(p.check, p.status, err.Error(), "")
		case len(missing) > 0:
			d.say(p.check, p.status, "refused: "+strings.Join(missing, " "), "ACL SETUSER "+d.user()+" "+strings.Join(append(p.keys, missing...), " "))
		default:
			d.ok(p.check, fmt.Sprintf("%d commands tried", len(p.trials)))
		}
	}
}

// purposes are all commands that ssed uses, those inside of its scripts too: Redis checks
// these by the rights of the caller.
func (d *redisDoctor) purposes(nonce string) []purpose {
	own := []string{"~" + d.keys.Prefix + "*", "~" + d.keys.Own() + "*"}
	all := []purpose{{"redis rights", Fail, own, d.trials(nonce)}}
	if d.Inbox != "" {
		all = append(all, purpose{"redis rights for --inbox", Warn, []string{"~" + d.inboxKey(), "~" + redisconn.Refused(d.inboxKey()), "~" + redisconn.InboxOwner(d.inboxKey())}, d.inboxTrials(nonce)})
	}
	if d.BatchChannel != "" && !d.Sharded { // a batch without messages
		all = append(all, purpose{"redis rights for --batch-channel", Warn, d.channels(), []trial{{"+publish", []string{"PUBLISH", d.BatchChannel, ""}}}})
	}
	return append(all, purpose{"redis rights for the admin listener", Warn, append(own, "~"+d.keys.Prefixes), d.adminTrials(nonce)})
}

func (d *redisDoctor) user() string {
	if d.Redis.Client.Username == "" {
		return "default"
	}
	return d.Redis.Client.Username
}

// trials are what streams and their history need. The last one deletes the keys.
func (d *redisDoctor) trials(nonce string) []trial {
	stream, hash, list, text := d.stream(nonce), d.key(nonce, "hash"), d.key(nonce, "list"), d.key(nonce, "text")
	trials := []trial{
		{"+info", []string{"INFO", "server"}},
		{"+exists", []string{"EXISTS", d.keys.Clock}},
		{"+time", []string{"TIME"}},
		{"+hset", []string{"HSET", hash, "a", "1"}},
		{"+hget", []string{"HGET", hash, "a"}},
		{"+hmget", []string{"HMGET", hash, "a"}},
		{"+hlen", []string{"HLEN", hash}},
		{"+pexpire", []string{"PEXPIRE", hash, scratchMs}},
		{"+hdel", []string{"HDEL", hash, "a"}},
		{"+publish", []string{"PUBLISH", d.keys.Control, "doctor " + nonce}},
		{"+eval", []string{"EVAL", "return redis.call('EXISTS', KEYS[1])", "1", d.keys.Clock}},
		{"+evalsha", []string{"EVALSHA", unknownScript, "0"}},
	}
	if d.Sharded { // a message that every instance numbers and leaves out
		trials = append(trials, trial{"+spublish", []string{"SPUBLISH", d.keys.Messages, d.ignored(nonce) + "\n"}})
	}
	if d.isCluster() {
		trials = append(trials, trial{"+cluster|nodes", []string{"CLUSTER", "NODES"}})
		if d.Sharded {
			trials = append(trials, trial{"+cluster|info", []string{"CLUSTER", "INFO"}})
		} else {
			trials = append(trials, trial{"+cluster|links", []string{"CLUSTER", "LINKS"}})
		}
	}
	if d.History {
		trials = append(trials,
			trial{"+xadd", []string{"XADD", stream, "MAXLEN", "~", "1", "*", "a", "1"}},
			trial{"+pexpire", []string{"PEXPIRE", stream, scratchMs}},
			trial{"+xlen", []string{"XLEN", stream}},
			trial{"+xrange", []string{"XRANGE", stream, "-", "+", "COUNT", "1"}},
			trial{"+xinfo|stream", []string{"XINFO", "STREAM", stream}},
			trial{"+set", []string{"SET", text, "a", "PX", scratchMs}},
			trial{"+get", []string{"GET", text}},
			trial{"+rpush", []string{"RPUSH", list, "a"}},
			trial{"+lpush", []string{"LPUSH", list, "b"}},
			trial{"+pexpire", []string{"PEXPIRE", list, scratchMs}},
			trial{"+lindex", []string{"LINDEX", list, "0"}},
			trial{"+llen", []string{"LLEN", list}},
			trial{"+lrange", []string{"LRANGE", list, "0", "-1"}},
			trial{"+lpop", []string{"LPOP", list}})
	}
	return append(trials, trial{"+del", []string{"DEL", hash, list, text, stream}})
}

// ignored is a reserved channel of the partition that is looked at. One of another partition
// would be told in the log of every instance.
func (d *redisDoctor) ignored(nonce string) string {
	channel := "__doctor:" + nonce
	for n := 0; sseproto.PartitionOf(channel, max(d.Partitions, 1)) != d.at; n++ {
		channel = fmt.Sprintf("__doctor:%s:%d", nonce, n)
	}
	return channel
}

func (d *redisDoctor) stream(nonce string) string { return d.keys.Stream("__doctor:" + nonce) }

// key is one of the keys that are tried on: its name begins as those of the clock.
func (d *redisDoctor) key(nonce, kind string) string {
	return d.keys.Doctor(nonce + ":" + kind)
}

// inboxTrials touch no entry of the inbox: none has the last ID that there can be.
func (d *redisDoctor) inboxTrials(nonce string) []trial {
	const noEntry = "18446744073709551615-18446744073709551615"
	return []trial{
		{"+xrange", []string{"XRANGE", d.inboxKey(), "-", "+", "COUNT", "1"}},
		{"+xdel", []string{"XDEL", d.inboxKey(), noEntry}},
		{"+xlen", []string{"XLEN", d.inboxKey()}},
		{"+get", []string{"GET", redisconn.InboxOwner(d.inboxKey())}},
		{"+pttl", []string{"PTTL", redisconn.InboxOwner(d.inboxKey())}},
		{"+xdel", []string{"XDEL", redisconn.Refused(d.inboxKey()), noEntry}},
		{"+rpop", []string{"RPOP", d.key(nonce, "list")}},
		{"+hgetall", []string{"HGETALL", d.key(nonce, "hash")}},
		{"+pubsub|numsub", []string{"PUBSUB", "NUMSUB", d.keys.Control}},
	}
}

// adminTrials are for the list of instances, and for deleting a history.
func (d *redisDoctor) adminTrials(nonce string) []trial {
	set, text, stream := d.key(nonce, "set"), d.key(nonce, "text"), d.stream(nonce)
	trials := []trial{
		{"+zadd", []string{"ZADD", set, "1", "a"}},
		{"+pexpire", []string{"PEXPIRE", set, scratchMs}},
		{"+zrange", []string{"ZRANGE", set, "0", "0"}},
		{"+zremrangebyscore", []string{"ZREMRANGEBYSCORE", set, "5", "5"}},
		{"+zrem", []string{"ZREM", set, "a"}},
		{"+set", []string{"SET", text, "a", "PX", scratchMs}},
		{"+mget", []string{"MGET", text}},
		{"+hgetall", []string{"HGETALL", d.key(nonce, "hash")}},
	}
	if d.History {
		trials = append(trials,
			trial{"+xadd", []string{"XADD", stream, "1-1", "a", "1"}},
			trial{"+pexpire", []string{"PEXPIRE", stream, scratchMs}},
			trial{"+xtrim", []string{"XTRIM", stream, "MAXLEN", "0"}},
			trial{"+xsetid", []string{"XSETID", stream, "1-1", "ENTRIESADDED", "0", "MAXDELETEDID", "1-1"}})
	}
	trials = append(trials, trial{"+zrange", []string{"ZRANGE", d.keys.Prefixes, "0", "0"}})
	return append(trials, trial{"+del", []string{"DEL", set, text, stream}})
}

// unknownScript is the name of no script.
const unknownScript = "0000000000000000000000000000000000000000"

// try returns the rights that are missing. It ends with an error when a command had no
// answer, or failed for another reason.
func (d *redisDoctor) try(ctx context.Context, trials []trial) (missing []string, err error) {
	for _, trial := range trials {
		err := d.client.Do(ctx, d.client.B().Arbitrary(trial.args...).Build()).Error()
		switch code := redisconn.Code(err); {
		case err == nil || rueidis.IsRedisNil(err) || code == redisconn.CodeNoScript:
		case code == redisconn.CodeNoPerm:
			if !slices.Contains(missing, trial.right) {
				missing = append(missing, trial.right)
			}
		case code == "" || len(missing) == 0: // else it may follow: a key is not there
			return nil, fmt.Errorf("%s: %w", trial.args[0], err)
		}
	}
	return missing, nil
}

// trySubscriptions subscribes as ssed does, on a connection of its own, for a moment.
func (d *redisDoctor) trySubscriptions(ctx context.Context) (missing []string, err error) {
	conn, release := d.client.Dedicate()
	defer release()
	defer conn.Close() // with what is subscribed
	conn.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(rueidis.PubSubMessage) {}})
	try := func(right string, cmd rueidis.Completed) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := conn.Do(ctx, cmd).Error()
		if redisconn.Code(err) == redisconn.CodeNoPerm {
			missing = append(missing, right)
			return nil
		}
		return err
	}
	err = errors.Join(
		try("+subscribe", conn.B().Subscribe().Channel(d.ownChannels()...).Build()),
		d.tryMessages(try, conn.B()),
	)
	if len(missing) > 0 { // the command or its channels
		missing = append(missing, d.channels()...)
	}
	return missing, err
}

// tryMessages subscribes to what brings the messages.
func (d *redisDoctor) tryMessages(try func(string, rueidis.Completed) error, b rueidis.Builder) error {
	if d.Sharded {
		return try("+ssubscribe", b.Ssubscribe().Channel(d.keys.Messages).Build())
	}
	return try("+psubscribe", b.Psubscribe().Pattern(d.Patterns...).Build())
}

// ownChannels are those that are subscribed to by their names.
func (d *redisDoctor) ownChannels() []string {
	if d.BatchChannel == "" || d.Sharded {
		return []string{d.keys.Control}
	}
	return []string{d.keys.Control, d.BatchChannel}
}

// channels are those that ssed needs, in the words of ACL SETUSER: anew, because Redis
// takes none after &*.
func (d *redisDoctor) channels() []string {
	if d.Sharded {
		return []string{"resetchannels", "&" + d.keys.Control, "&" + d.keys.Messages}
	}
	if slices.Contains(d.Patterns, "*") {
		return []string{"resetchannels", "&*"}
	}
	rights := []string{"resetchannels"}
	for _, pattern := range append(d.ownChannels(), d.Patterns...) {
		rights = append(rights, "&"+pattern)
	}
	return rights
}
