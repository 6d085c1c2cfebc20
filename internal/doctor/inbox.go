package doctor

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
)

// firstInbox is what earlier versions took from by default, whatever the prefix.
const firstInbox = "sse:inbox"

// inbox looks whose the inbox is, and whether entries wait in one that nobody takes from.
func (d *redisDoctor) inbox(ctx context.Context) {
	const check = "redis inbox"
	if d.Inbox == "" {
		return
	}
	owner, err := d.ownerOf(ctx, d.inboxKey())
	if err != nil {
		d.skip(check, err.Error())
		return
	}
	if owner != "" && owner != d.keys.Prefix {
		d.fail(check, fmt.Sprintf("%s belongs to the prefix %s, and --stream-prefix is %s", d.inboxKey(), owner, d.keys.Prefix), "another --inbox, or --inbox=off")
		return
	}
	if d.Inbox != firstInbox {
		waiting, err := d.client.Do(ctx, d.client.B().Xlen().Key(firstInbox).Build()).AsInt64()
		other, ownerErr := d.ownerOf(ctx, firstInbox)
		if err == nil && ownerErr == nil && waiting > 0 && other == "" {
			d.warn(check, fmt.Sprintf("nobody takes the %d entries of %s: earlier versions did with every prefix", waiting, firstInbox),
				"let backends add to "+d.Inbox+", or set --inbox="+firstInbox)
			return
		}
	}
	d.ok(check, d.inboxKey())
}

// inboxKey is the stream that backends add to.
func (d *redisDoctor) inboxKey() string { return d.keys.Inbox(d.Inbox) }

// ownerOf returns the prefix that an inbox belongs to, "" for none.
func (d *redisDoctor) ownerOf(ctx context.Context, inbox string) (string, error) {
	owner, err := d.client.Do(ctx, d.client.B().Get().Key(redisconn.InboxOwner(inbox)).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		return "", nil
	}
	return owner, err
}
