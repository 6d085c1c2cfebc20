package rsub

import "ssed/sseproto"

// subscribesToBatches reports whether the channel of batches takes a subscription of its
// own: where a pattern has it, Redis would send each batch twice. The shard channel has
// batches as it has any message.
func (f *Feed) subscribesToBatches() bool {
	return f.cfg.BatchChannel != "" && !f.cfg.Sharded && !f.patterns.match(f.cfg.BatchChannel)
}

// isBatchChannel reports whether messages of the channel are batches. Redis has a channel without a name, too.
func (f *Feed) isBatchChannel(channel string) bool {
	return channel == f.cfg.BatchChannel && channel != ""
}

// onBatch numbers the messages of a batch, those too that are not for the sink. How many
// there are depends on its bytes alone. An end that cannot be read has no messages.
func (s *subscription) onBatch(batch string) {
	c := &s.feed.counters
	c.batches.Add(1)
	rest := batch[:min(len(batch), sseproto.MaxBatchBytes)]
	for {
		channel, payload, after, ok := sseproto.CutBatched(rest)
		if !ok {
			break
		}
		rest = after
		id, ok := s.number(channel, payload)
		switch {
		case !ok || s.isForeign(channel):
		case s.feed.delivers(channel):
			s.deliver(id, channel, payload)
		default:
			c.unmatched.Add(1)
		}
	}
	if len(rest) > 0 || len(batch) > sseproto.MaxBatchBytes {
		c.brokenBatches.Add(1)
		s.feed.found.broken.note(brokenBatch{len(batch), min(len(batch), sseproto.MaxBatchBytes) - len(rest)})
	}
}

// brokenBatch is a batch whose end could not be read.
type brokenBatch struct{ bytes, read int }

// outCommand is what one PUBLISH of the publishing script sends.
type outCommand struct {
	channel, payload string
	messages         int // that it carries
}

// pack returns what one call of the script publishes of the messages, one at least, and
// how many that are. Those of our patterns go in batches, if there is a channel for them;
// others may have subscribers of their own, who do not read batches.
func (f *Feed) pack(messages []OutMessage) (commands []outCommand, n int) {
	var batch []OutMessage
	size := 0
	flush := func() {
		if len(batch) > 0 {
			commands = append(commands, f.packed(batch))
		}
		batch, size = batch[:0], 0
	}
	bytes := 0
	for _, m := range messages {
		bytes += len(m.Channel) + len(m.Payload)
		if n > 0 && (bytes > maxCallBytes || n == maxCallMessages || len(commands) == maxCallCommands) {
			break
		}
		n++
		if f.cfg.BatchChannel == "" || !f.delivers(m.Channel) {
			flush()
			commands = append(commands, outCommand{m.Channel, m.Payload, 1})
			continue
		}
		added := sseproto.BatchedSize(m.Channel, m.Payload)
		if size+added > sseproto.MaxBatchBytes {
			flush()
		}
		batch, size = append(batch, m), size+added
	}
	flush()
	return commands, n
}

// packed makes one command of messages. One alone goes as it is.
func (f *Feed) packed(messages []OutMessage) outCommand {
	if len(messages) == 1 {
		return outCommand{messages[0].Channel, messages[0].Payload, 1}
	}
	var batch []byte
	for _, m := range messages {
		batch = sseproto.AppendBatched(batch, m.Channel, m.Payload)
	}
	return outCommand{f.cfg.BatchChannel, string(batch), len(messages)}
}
