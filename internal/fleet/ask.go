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
	"sync"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
)

const (
	// askTimeout is how long answers are waited for: more than a round trip between
	// instances and Redis anywhere, less than an operator minds.
	askTimeout = 500 * time.Millisecond
	// closeTimeout is how long an instance may take to close streams: 2 ms for 256.
	closeTimeout = 5 * time.Second
	// replyTTL is how long answers are kept, in case their asker has gone.
	replyTTL = 5 * time.Second
	// Answers are looked for often at first: most are there after a round trip.
	firstLook, lastLook = 2 * time.Millisecond, 40 * time.Millisecond
	// maxAsking is how many questions of this instance may be under way. Every one
	// costs every instance two commands.
	maxAsking = 8
	// maxQuestions is how many questions of others, of a kind, may wait here.
	maxQuestions = 64
	// nonceBytes make two questions at a time distinct.
	nonceBytes = 8
)

// The first words of questions: "ask <nonce> <asker> <channel>" and "close <nonce>
// <asker> <order>", the last word in hexadecimal.
const (
	noticeAsk   = "ask"
	noticeClose = "close"
)

// Bounds of the last word, in hexadecimal: a channel of 255 bytes; an order to close with
// a channel, a subject and a token of 255 bytes each, which are six times as long in JSON
// at worst.
const (
	maxAskWord   = 512
	maxCloseWord = 10_000
)

// ErrBusy is returned when too many questions are under way.
var ErrBusy = errors.New("fleet: too many questions at once")

var (
	//go:embed reply.lua
	replyLua    string
	replyScript = redisconn.NewScript(redisconn.AllowOOM, replyLua)
)

// Share is the answer of one instance.
type Share struct {
	Instance string
	Streams  int64
}

// Spread tells of how many streams the instances speak.
type Spread struct {
	Shares []Share // by name
	// Asked is how many instances are there; those without a share did not answer in time.
	Asked int
}

// kind is a kind of question.
type kind struct {
	// fixed after construction
	notice  string
	maxWord int
	timeout time.Duration
	isOrder bool // done even when its asker has given up
	decide  func(ctx context.Context, payload []byte) (int64, error)

	questions chan question // bounded: what does not fit is dropped
}

// question is one that another instance asks.
type question struct {
	nonce, payload string // both hexadecimal
	came           time.Time
}

// Notice takes the words of a control message. It does not block: it is meant for a
// read loop.
func (f *Fleet) Notice(words []string) {
	if len(words) != 4 || words[2] == f.cfg.Instance {
		return
	}
	for _, k := range f.kinds {
		if words[0] == k.notice {
			f.take(k, words[1], words[3])
		}
	}
}

func (f *Fleet) take(k *kind, nonce, payload string) {
	if len(nonce) != 2*nonceBytes || len(payload) > k.maxWord {
		return
	}
	n, err := strconv.ParseUint(nonce, 16, 64)
	if err != nil || !f.nonces.isNew(n) {
		return // malformed, or it came by the other link already
	}
	select {
	case k.questions <- question{nonce, payload, time.Now()}:
	default:
		f.counters.dropped.Add(1)
	}
}

// nonces are those of the last questions of others.
type nonces struct {
	mu   sync.Mutex
	last [2 * maxQuestions]uint64 // guarded by mu
	next int                      // guarded by mu
}

// isNew reports whether a nonce is not among them, and adds it.
func (n *nonces) isNew(nonce uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Contains(n.last[:], nonce) {
		return false
	}
	n.last[n.next] = nonce
	n.next = (n.next + 1) % len(n.last)
	return true
}

// answer answers the questions of others, but for those whose asker has given up: Redis
// may have stalled.
func (f *Fleet) answer(ctx context.Context, k *kind) {
	for {
		select {
		case q := <-k.questions:
			switch {
			case !k.isOrder && time.Since(q.came) > k.timeout:
				f.counters.dropped.Add(1)
			case f.tell(ctx, k, q) != nil:
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
func (f *Fleet) tell(ctx context.Context, k *kind, q question) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	payload, err := hex.DecodeString(q.payload)
	if err != nil {
		return err
	}
	n, err := k.decide(ctx, payload)
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
	return f.ask(ctx, f.asks, []byte(channel))
}

// Close has all instances close streams, by Config.Close with the order. It takes some
// seconds at most when an instance does not answer. With an error the order may have been
// followed by some.
func (f *Fleet) Close(ctx context.Context, order []byte) (Spread, error) {
	return f.ask(ctx, f.closes, order)
}

// ask asks all instances, this one among them.
func (f *Fleet) ask(ctx context.Context, k *kind, payload []byte) (Spread, error) {
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	default:
		f.counters.busy.Add(1)
		return Spread{}, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	members, err := f.Members(ctx)
	if err != nil {
		return Spread{}, err
	}
	asked := map[string]bool{f.cfg.Instance: true}
	for _, m := range members {
		asked[m.Name] = true
	}
	nonce := newNonce()
	if len(asked) > 1 {
		f.counters.asked.Add(1)
		if err := f.cfg.Notify(ctx, k.notice, nonce, f.cfg.Instance, hex.EncodeToString(payload)); err != nil {
			return Spread{}, err
		}
	}
	own, err := k.decide(ctx, payload) // while the others do the same
	if err != nil {
		return Spread{}, err
	}
	answers, err := f.collect(ctx, nonce, asked)
	if err != nil {
		return Spread{}, err
	}
	answers[f.cfg.Instance] = own
	return spreadOf(asked, answers), nil
}

func newNonce() string {
	var random [nonceBytes]byte
	_, _ = rand.Read(random[:])
	return hex.EncodeToString(random[:])
}

// collect looks for answers until all others have given theirs, or ctx ends.
func (f *Fleet) collect(ctx context.Context, nonce string, asked map[string]bool) (map[string]int64, error) {
	answers := map[string]int64{}
	for pause := firstLook; !f.complete(asked, answers); pause = min(2*pause, lastLook) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answers, nil
		}
		got, err := f.answersTo(ctx, nonce)
		// The client may look at the deadline a moment before ctx ends.
		if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
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

// answersTo reads the answers so far.
func (f *Fleet) answersTo(ctx context.Context, nonce string) (map[string]int64, error) {
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
