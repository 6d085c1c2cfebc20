package rsub

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

//go:embed publish.lua
var publishLua string

var publishScript = redisconn.NewScript(redisconn.AllowOOM, publishLua)

// What one call of the script publishes at most: Redis does nothing else meanwhile.
const (
	maxCallCommands = 128
	maxCallMessages = 1024 // in batches
	maxCallBytes    = 1 << 20
)

var (
	// ErrReserved is returned by Publish for channels that are never delivered.
	ErrReserved = errors.New("rsub: reserved channel")
	// ErrPartition is returned by Publish for a channel of another partition.
	ErrPartition = errors.New("rsub: the channel belongs to another partition")
	// ErrTooLarge is returned by Publish for a payload over Config.MaxMessageBytes,
	// which every instance would number and drop.
	ErrTooLarge = errors.New("rsub: message over the limit")
	// ErrNotice is returned by Notify for words that are no notice.
	ErrNotice = errors.New("rsub: not a notice")
	// ErrNotCleared is returned by Publish before Config.Cleared is closed.
	ErrNotCleared = errors.New("rsub: it is not known yet whether instances with other settings are there")
)

// OutMessage is a message to be published.
type OutMessage struct{ Channel, Payload string }

// PublishResult tells what became of a published message.
type PublishResult struct {
	// ID is the position of the message, the same on every instance; zero when it
	// has none, or was not read by a numbering feed of this instance in time.
	ID sseproto.ID
	// Receivers is how many subscriptions got it, or the batch that carried it. 0: nobody,
	// and it is gone.
	Receivers int64
}

// Publish sends a message to Redis, from where it comes back on every instance, and
// waits until this one has its number, for Config.NumberWait or until ctx ends.
// ErrReserved, ErrTooLarge and ErrNotCleared: it was not sent. After another error it may have been
// sent or not.
func (f *Feed) Publish(ctx context.Context, channel, payload string) (PublishResult, error) {
	list, err := f.PublishBatch(ctx, []OutMessage{{channel, payload}})
	if err != nil {
		return PublishResult{}, err
	}
	return list[0], nil
}

// PublishBatch publishes messages in order. With ErrReserved or ErrTooLarge none was
// sent. After another error the results are those of the messages that were sent for
// certain; those behind them may have been sent or not.
func (f *Feed) PublishBatch(ctx context.Context, messages []OutMessage) ([]PublishResult, error) {
	for i, m := range messages {
		if err := f.mayPublish(m); err != nil {
			return nil, fmt.Errorf("%w: message %d", err, i+1)
		}
	}
	list := make([]PublishResult, 0, len(messages))
	var batches []*publishBatch
	var err error
	for rest := messages; len(rest) > 0; {
		commands, n := f.pack(rest)
		p := f.results.open(f.patterns, rest[:n], len(list))
		if list, err = f.send(ctx, p, commands, list); err != nil {
			f.results.drop(p)
			break
		}
		batches, rest = append(batches, p), rest[n:]
	}
	f.await(ctx, batches)
	for _, p := range batches {
		f.results.resolve(p, list)
	}
	return list, err
}

func (f *Feed) mayPublish(m OutMessage) error {
	switch limit := f.cfg.MaxMessageBytes; {
	case Reserved(m.Channel) || f.isBatchChannel(m.Channel):
		return ErrReserved
	case !f.owns(m.Channel):
		return ErrPartition
	case limit > 0 && len(m.Payload) > limit:
		return ErrTooLarge
	}
	return nil
}

// send runs the script and adds the receivers of its messages to list.
func (f *Feed) send(ctx context.Context, p *publishBatch, commands []outCommand, list []PublishResult) ([]PublishResult, error) {
	if !f.isCleared() {
		return list, ErrNotCleared
	}
	client, err := f.client.Current()
	if err != nil {
		return list, err
	}
	args := make([]string, 0, 4+2*len(commands))
	args = append(args, f.keys.Control, f.cfg.Instance, p.name(), f.shardChannel())
	for _, c := range commands {
		args = append(args, c.channel, c.payload)
	}
	receivers, err := publishScript.Run(ctx, client, []string{f.keys.Clock}, args).AsIntSlice()
	if redisconn.Code(err) == redisconn.CodeReadOnly {
		f.ticker.join() // it finds the primary
	}
	if err == nil && len(receivers) != len(commands) {
		err = errReply
	}
	if err != nil {
		return list, fmt.Errorf("rsub: publish: %w", err)
	}
	for i, n := range receivers {
		for range commands[i].messages {
			list = append(list, PublishResult{Receivers: n})
		}
	}
	return list, nil
}

// await waits until all batches have their numbers or cannot get them.
func (f *Feed) await(ctx context.Context, batches []*publishBatch) {
	timer := time.NewTimer(f.cfg.NumberWait)
	defer timer.Stop()
	for _, p := range batches {
		if !f.numbers() {
			return
		}
		select {
		case <-p.done:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// numbers reports whether any feed gives numbers now.
func (f *Feed) numbers() bool {
	for _, s := range f.subscriptions {
		if s.synced.Load() {
			return true
		}
	}
	return false
}

// Notify sends words to every instance of the prefix, this one included, where they
// come to Config.OnNotice. No word may be empty or contain a space or a control
// character, and the first one must not be one of this package's own.
func (f *Feed) Notify(ctx context.Context, words ...string) error {
	for _, w := range words {
		if w == "" || strings.ContainsFunc(w, isSpaceOrControl) {
			return ErrNotice
		}
	}
	if len(words) == 0 || ownWord(words[0]) {
		return ErrNotice
	}
	client, err := f.client.Current()
	if err != nil {
		return err
	}
	cmd := client.B().Publish().Channel(f.keys.Control).Message(strings.Join(words, " ")).Build()
	if err := client.Do(ctx, cmd).Error(); err != nil {
		return fmt.Errorf("rsub: notify: %w", err)
	}
	return nil
}

// onSent takes a notice of publish.lua: "sent <caller> <number of the batch> <node>".
// What the connection brings next are the messages of the batch.
func (s *subscription) onSent(words string) {
	caller, words, _ := strings.Cut(words, " ")
	if caller != s.feed.cfg.Instance {
		return
	}
	number, node, _ := strings.Cut(words, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return
	}
	s.stopAwaiting()
	p := s.feed.results.find(n)
	switch {
	case p == nil:
	case s.seq.state != synced || node != s.node:
		// Another node: the connection hangs on a demoted primary, to which the
		// messages came by replication. Its numbers are not those of the others.
		s.feed.results.pass(p)
	default:
		s.awaited, s.came = p, 0
	}
}

// noteOwn tells the number of a message that should be the next one of our batch.
func (s *subscription) noteOwn(id sseproto.ID, channel string) {
	p := s.awaited
	if p.awaited[s.came].channel != channel {
		s.stopAwaiting()
		return
	}
	s.feed.results.tell(p, s.came, id)
	if s.came++; s.came == len(p.awaited) {
		s.awaited = nil
	}
}

// stopAwaiting gives up what has not come of a batch: the subscription was lost, or the script
// stopped halfway because it may not publish on a channel.
func (s *subscription) stopAwaiting() {
	if p := s.awaited; p != nil {
		s.awaited = nil
		s.feed.results.pass(p)
	}
}
