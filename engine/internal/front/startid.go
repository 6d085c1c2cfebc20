package front

import "ssed/sseproto"

// StartID says which new streams begin with their position, as an id without data. A
// client that comes back before its first event then misses nothing.
type StartID uint8

const (
	// StartIDAuto: a browser's own EventSource gets it, and who asks. Other clients may
	// show it as an event without data.
	StartIDAuto StartID = iota
	// StartIDOn: all get it but those who do not want it.
	StartIDOn
	// StartIDOff: only who asks gets it.
	StartIDOff
)

// wantsStartID decides whether a client is sent an id without data: where its stream
// begins, without a Last-Event-ID, and where it ends by plan.
func (f *Front) wantsStartID(req *sseproto.Request, asked sseproto.Start) bool {
	switch {
	case asked != sseproto.StartDefault:
		return asked == sseproto.StartID
	case f.cfg.StartID == StartIDAuto:
		return req.IsEventSource()
	}
	return f.cfg.StartID == StartIDOn
}
