package rstore

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/internal/redislua"
	"ssed/sseproto"
)

var (
	//go:embed common.lua
	commonLua string
	//go:embed append.lua
	appendLua string
	//go:embed lease.lua
	leaseLua string
	//go:embed skip.lua
	skipLua string
	//go:embed invalidate.lua
	invalidateLua string
	//go:embed delete.lua
	deleteLua string

	appendScript     = newScript(appendLua)
	leaseScript      = newScript(leaseLua)
	skipScript       = newScript(redislua.InboxNotes, redislua.Globs, skipLua)
	invalidateScript = newScript(invalidateLua)
	deleteScript     = newScript(deleteLua)
)

func newScript(parts ...string) *redisconn.Script {
	return redisconn.NewScript(append([]string{redislua.IDs, commonLua}, parts...)...)
}

// answer is what every script returns. The truth at that moment is in epoch,
// watermark and holder, whatever the status.
type answer struct {
	status    string
	epoch     string // "" while there is no clock
	watermark sseproto.ID
	holder    string // of the lease, "" when free
	writer    string // who moved the watermark last
	n         int64
	refused   int64
	failure   string // error answer that ended the script early
	capped    int64  // append: streams that Config.Cap kept from holding all of Config.Window

	err error // no answer; whether the script ran is unknown unless Redis said so
}

// The statuses.
const (
	statusOK     = "ok"
	statusStale  = "stale"  // the watermark is another one
	statusEpoch  = "epoch"  // the epoch is another one, or there is no clock
	statusHeld   = "held"   // the lease belongs to another instance
	statusServer = "server" // another server gave the order by then than the one that the log is of
	statusWait   = "wait"   // the offer stands
	statusFailed = "failed"
)

var errAnswer = errors.New("rstore: malformed answer of a script")

// run sends the calls in one pipeline, in order.
func (s *Store) run(ctx context.Context, sc *redisconn.Script, calls ...redisconn.Call) []answer {
	out := make([]answer, len(calls))
	c, err := s.write.Get(ctx)
	if err != nil {
		for i := range out {
			out[i].err = err
		}
		return out
	}
	for i, r := range sc.RunAll(ctx, c, calls...) {
		out[i] = parseAnswer(r)
		if out[i].err != nil && redisconn.IsCluster(s.cfg.Client) && (redisconn.Code(out[i].err) == "" || redisconn.IsMoved(out[i].err)) {
			// Another node may be the primary. The connection that reads may be idle, and find
			// out only when a reader waits for it.
			s.read.DiscardCurrent()
		}
		if out[i].status == statusServer {
			// Two primaries at once: the feed hangs on the other one. Find out anew which is the one.
			s.write.Discard(c)
			s.read.DiscardCurrent()
			s.cfg.OnOtherServer()
		}
		if redisconn.Code(out[i].err) == redisconn.CodeReadOnly || redisconn.CodeOf(out[i].failure) == redisconn.CodeReadOnly {
			// The node was demoted: find the primary anew, for reads as well.
			s.write.Discard(c)
			s.read.DiscardCurrent()
		}
	}
	return out
}

func parseAnswer(r rueidis.RedisResult) (a answer) {
	f, err := r.ToArray()
	if err != nil {
		return answer{err: err}
	}
	if len(f) < 8 {
		return answer{err: fmt.Errorf("%w: %d fields", errAnswer, len(f))}
	}
	text := func(i int) (s string) {
		s, e := f[i].ToString()
		err = errors.Join(err, e)
		return s
	}
	number := func(i int) (n int64) {
		n, e := f[i].AsInt64()
		err = errors.Join(err, e)
		return n
	}
	a = answer{status: text(0), epoch: text(1), holder: text(3), writer: text(4), n: number(5), refused: number(6), failure: text(7)}
	if len(f) > 8 {
		a.capped = number(8)
	}
	watermark, e := sseproto.ParseID(text(2))
	a.watermark = watermark
	if err = errors.Join(err, e); err != nil {
		return answer{err: fmt.Errorf("%w: %w", errAnswer, err)}
	}
	return a
}
