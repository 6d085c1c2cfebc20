package fleet

import (
	"context"
	"crypto/rand"
	_ "embed" // the script
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
)

const (
	// askTimeout is how long answers are waited for: more than a round trip between
	// instances and Redis anywhere, less than an operator minds.
	askTimeout = 500 * time.Millisecond
	// replyTTL is how long answers are kept, in case their asker has gone.
	replyTTL = 5 * time.Second
	// Answers are looked for often at first: most are there after a round trip.
	firstLook, lastLook = 2 * time.Millisecond, 40 * time.Millisecond
	// maxAsking is how many questions of this instance may be under way. Every one
	// costs every instance two commands.
	maxAsking = 8
	// maxQuestions is how many questions of others may wait for their answer here.
	maxQuestions = 64
	// nonceBytes make two questions at a time distinct.
	nonceBytes = 8
)

// noticeAsk is the first word of a question: "ask <nonce> <asker> <channel, hexadecimal>".
const noticeAsk = "ask"

// maxWord bounds the words of a question: a channel of 255 bytes in hexadecimal.
const maxWord = 512

// ErrBusy is returned when too many questions are under way.
var ErrBusy = errors.New("fleet: too many questions at once")

var (
	//go:embed reply.lua
	replyLua    string
	replyScript = redisconn.NewScript(redisconn.AllowOOM, replyLua)
)

// Share is the answer of one instance.
type Share struct {
	Instance    string
	Subscribers int64
}

// Spread tells how many streams a channel has on the instances.
type Spread struct {
	Shares []Share // by name
	// Asked is how many instances are there; those without a share did not answer in time.
	Asked int
}

// question is one that another instance asks.
type question struct {
	nonce, channel string // both hexadecimal
	came           time.Time
}

// Notice takes the words of a control message. It does not block: it is meant for a
// read loop.
func (f *Fleet) Notice(words []string) {
	if len(words) != 4 || words[0] != noticeAsk || words[2] == f.cfg.Instance {
		return
	}
	if len(words[1]) != 2*nonceBytes || len(words[3]) > maxWord {
		return
	}
	nonce, err := strconv.ParseUint(words[1], 16, 64)
	if err != nil || f.lastAsked.Swap(nonce) == nonce {
		return // malformed, or it came by the other link already
	}
	select {
	case f.questions <- question{words[1], words[3], time.Now()}:
	default:
		f.counters.dropped.Add(1)
	}
}

// answer answers the questions of others, but for those whose asker has given up: Redis
// may have stalled.
func (f *Fleet) answer(ctx context.Context) {
	for {
		select {
		case q := <-f.questions:
			switch {
			case time.Since(q.came) > askTimeout:
				f.counters.dropped.Add(1)
			case f.tell(ctx, q) != nil:
				f.counters.answerErrors.Add(1)
			default:
				f.counters.answers.Add(1)
			}
		case <-ctx.Done():
			return
		}
	}
}

// tell answers one question. The asker does not wait longer either.
func (f *Fleet) tell(ctx context.Context, q question) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	channel, err := hex.DecodeString(q.channel)
	if err != nil {
		return err
	}
	n, err := f.cfg.Subscribers(ctx, string(channel))
	if err != nil {
		return err
	}
	client, err := f.current()
	if err != nil {
		return err
	}
	err = replyScript.Run(ctx, client, []string{f.keys.Reply(q.nonce)},
		[]string{f.cfg.Instance, strconv.FormatInt(n, 10), millis(replyTTL)}).Error()
	if rueidis.IsRedisNil(err) {
		return nil // the script returns nothing
	}
	return err
}

// Subscribers asks all instances how many streams a channel has. It takes half a second
// at most when an instance does not answer, else a round trip or two.
func (f *Fleet) Subscribers(ctx context.Context, channel string) (Spread, error) {
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	default:
		f.counters.busy.Add(1)
		return Spread{}, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	members, err := f.Members(ctx)
	if err != nil {
		return Spread{}, err
	}
	asked := map[string]bool{f.cfg.Instance: true}
	for _, m := range members {
		asked[m.Name] = true
	}
	own, err := f.cfg.Subscribers(ctx, channel)
	if err != nil {
		return Spread{}, err
	}
	answers, err := f.ask(ctx, channel, asked)
	if err != nil {
		return Spread{}, err
	}
	answers[f.cfg.Instance] = own
	return spreadOf(asked, answers), nil
}

// ask sends a question and collects answers until all others have given theirs, or ctx ends.
func (f *Fleet) ask(ctx context.Context, channel string, asked map[string]bool) (map[string]int64, error) {
	if len(asked) == 1 {
		return map[string]int64{}, nil
	}
	var random [nonceBytes]byte
	_, _ = rand.Read(random[:])
	nonce := hex.EncodeToString(random[:])
	f.counters.asked.Add(1)
	if err := f.cfg.Notify(ctx, noticeAsk, nonce, f.cfg.Instance, hex.EncodeToString([]byte(channel))); err != nil {
		return nil, err
	}
	answers := map[string]int64{}
	for pause := firstLook; !f.complete(asked, answers); pause = min(2*pause, lastLook) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answers, nil
		}
		got, err := f.collect(ctx, nonce)
		if ctx.Err() != nil {
			return answers, nil
		}
		if err != nil {
			return nil, err
		}
		answers = got
	}
	return answers, nil
}

// complete reports whether all others have answered. One that has just begun may answer
// without being asked.
func (f *Fleet) complete(asked map[string]bool, answers map[string]int64) bool {
	for name := range asked {
		if _, ok := answers[name]; !ok && name != f.cfg.Instance {
			return false
		}
	}
	return true
}

// collect reads the answers so far.
func (f *Fleet) collect(ctx context.Context, nonce string) (map[string]int64, error) {
	client, err := f.current()
	if err != nil {
		return nil, err
	}
	answers, err := client.Do(ctx, client.B().Hgetall().Key(f.keys.Reply(nonce)).Build()).AsIntMap()
	if err != nil {
		return nil, fmt.Errorf("fleet: answers: %w", err)
	}
	return answers, nil
}

// spreadOf also counts instances that answered without being listed: they have just begun.
func spreadOf(asked map[string]bool, answers map[string]int64) Spread {
	var s Spread
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		s.Shares = append(s.Shares, Share{name, answers[name]})
		asked[name] = true
	}
	s.Asked = len(asked)
	return s
}
