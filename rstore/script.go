package rstore

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/redis/rueidis"

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
	skipScript       = newScript(skipLua)
	invalidateScript = newScript(invalidateLua)
	deleteScript     = newScript(deleteLua)
)

type script struct{ text, sha string }

func newScript(text string) *script {
	text = commonLua + text
	sum := sha1.Sum([]byte(text)) // the name Redis gives it
	return &script{text: text, sha: hex.EncodeToString(sum[:])}
}

// call is one run of a script.
type call struct{ keys, args []string }

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

	err error // no answer; whether the script ran is unknown unless Redis said so
}

// The statuses.
const (
	statusOK     = "ok"
	statusStale  = "stale" // the watermark is another one
	statusEpoch  = "epoch" // the epoch is another one, or there is no clock
	statusHeld   = "held"  // the lease belongs to another instance
	statusWait   = "wait"  // the offer stands
	statusFailed = "failed"
)

var errAnswer = errors.New("rstore: malformed answer of a script")

// run sends the calls in one pipeline, in order. A call that was answered with
// NOSCRIPT did not run: from there on they are sent once more, with the script.
func (s *Store) run(ctx context.Context, sc *script, calls ...call) []answer {
	out := make([]answer, 0, len(calls))
	for attempt := 0; ; attempt++ {
		rest := s.send(ctx, sc, attempt > 0, calls[len(out):])
		for i, a := range rest {
			if attempt == 0 && errorCode(a.err) == "NOSCRIPT" {
				rest = rest[:i]
				break
			}
		}
		out = append(out, rest...)
		if len(out) == len(calls) {
			return out
		}
	}
}

func (s *Store) send(ctx context.Context, sc *script, load bool, calls []call) []answer {
	out := make([]answer, len(calls))
	c, err := s.write.get(ctx)
	if err != nil {
		for i := range out {
			out[i].err = err
		}
		return out
	}
	cmds := make(rueidis.Commands, 0, len(calls)+1)
	if load {
		cmds = append(cmds, c.B().ScriptLoad().Script(sc.text).Build())
	}
	for _, call := range calls {
		cmds = append(cmds, c.B().Evalsha().Sha1(sc.sha).Numkeys(int64(len(call.keys))).Key(call.keys...).Arg(call.args...).Build())
	}
	results := c.DoMulti(ctx, cmds...)
	for i, r := range results[len(results)-len(calls):] {
		out[i] = parseAnswer(r)
		if errorCode(out[i].err) == "READONLY" || codeOf(out[i].failure) == "READONLY" {
			// The node was demoted: find the primary anew, for reads as well.
			s.write.renew(c)
			s.read.drop()
		}
	}
	return out
}

func parseAnswer(r rueidis.RedisResult) (a answer) {
	f, err := r.ToArray()
	if err != nil {
		return answer{err: err}
	}
	if len(f) != 8 {
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
	watermark, e := sseproto.ParseID(text(2))
	a.watermark = watermark
	if err = errors.Join(err, e); err != nil {
		return answer{err: fmt.Errorf("%w: %w", errAnswer, err)}
	}
	return a
}
