package redisconn

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"strings"

	"github.com/redis/rueidis"
)

// AllowOOM begins a script that runs when maxmemory is reached. The line takes Redis 7.
const AllowOOM = "#!lua flags=allow-oom\n"

// Script is a Lua script that the server keeps by its checksum.
type Script struct{ text, sha string }

// NewScript joins the parts of a script. AllowOOM can only be the first one.
func NewScript(parts ...string) *Script {
	text := strings.Join(parts, "")
	sum := sha1.Sum([]byte(text)) // the name that Redis gives it
	return &Script{text: text, sha: hex.EncodeToString(sum[:])}
}

// Call is one run of a script.
type Call struct{ Keys, Args []string }

// Run runs the script once.
func (s *Script) Run(ctx context.Context, c rueidis.Client, keys, args []string) rueidis.RedisResult {
	return s.RunAll(ctx, c, Call{keys, args})[0]
}

// RunAll sends the calls in one pipeline, in order, and returns as many results. The
// first one that the server answers with NOSCRIPT did not run: from there on all are
// sent once more, this one with the text of the script. So a call whose predecessor did
// not run must not do harm, should another client load the script in between. SCRIPT LOAD
// is not used: it is a right of its own, which EVAL does not take.
func (s *Script) RunAll(ctx context.Context, c rueidis.Client, calls ...Call) []rueidis.RedisResult {
	results := c.DoMulti(ctx, s.commands(c, calls, false)...)
	for i, r := range results {
		if Code(r.Error()) == CodeNoScript {
			return append(results[:i:i], c.DoMulti(ctx, s.commands(c, calls[i:], true)...)...)
		}
	}
	return results
}

// Command builds one call for a pipeline of the caller's, with the text of the script if
// asked. Without it the server may answer with NOSCRIPT; then the caller sends it with
// the text.
func (s *Script) Command(b rueidis.Builder, call Call, withText bool) rueidis.Completed {
	n := int64(len(call.Keys))
	if withText {
		return b.Eval().Script(s.text).Numkeys(n).Key(call.Keys...).Arg(call.Args...).Build()
	}
	return b.Evalsha().Sha1(s.sha).Numkeys(n).Key(call.Keys...).Arg(call.Args...).Build()
}

// commands builds the calls, the first one with the text of the script if asked.
func (s *Script) commands(c rueidis.Client, calls []Call, withText bool) rueidis.Commands {
	cmds := make(rueidis.Commands, len(calls))
	for i, call := range calls {
		cmds[i] = s.Command(c.B(), call, i == 0 && withText)
	}
	return cmds
}
