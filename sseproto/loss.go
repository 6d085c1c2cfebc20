package sseproto

// Reasons of a gap event: why what a client asked for cannot be delivered whole.
const (
	// ReasonUnknownID: the Last-Event-ID is not one that this service gives out.
	ReasonUnknownID = "unknown-id"
	// ReasonTrimmed: messages after the Last-Event-ID were trimmed by the length limit.
	ReasonTrimmed = "trimmed"
	// ReasonExpired: messages after the Last-Event-ID may have expired by their TTL.
	ReasonExpired = "expired"
	// ReasonNotKept: the channel has no history, or had none for a while, and the
	// Last-Event-ID lies before what memory holds.
	ReasonNotKept = "not-kept"
	// ReasonEvicted: messages after the Last-Event-ID may have been evicted by Redis, whose
	// memory was full.
	ReasonEvicted = "evicted"
	// ReasonOutage: the range overlaps a stretch that no instance saw.
	ReasonOutage = "outage"
	// ReasonOversize: a message was larger than instances deliver. The event stands in its
	// place.
	ReasonOversize = "oversize"
	// ReasonUnavailable: the history could not be read, or was not written in time.
	ReasonUnavailable = "unavailable"
)

// Reasons lists all reasons of a gap event.
func Reasons() []string {
	return []string{ReasonUnknownID, ReasonTrimmed, ReasonExpired, ReasonNotKept, ReasonEvicted, ReasonOutage, ReasonOversize, ReasonUnavailable}
}

// Oversize returns what stands in the place of a message of the channel that was larger
// than instances deliver: AppendEvent makes of it the gap event that AppendGap makes. No
// publisher's message has its type, see Message.Check.
func Oversize(channel string) Message {
	return Message{Event: EventGap, Data: string(appendGapData(nil, &Gap{Reason: ReasonOversize, Channel: channel}))}
}

// Replay receives what a history reader finds. Channel is the index in the
// list of channels that was asked for. The strings of a message are borrowed:
// valid until the method returns.
type Replay interface {
	// Event is one stored message, or an Oversize. Within a channel IDs ascend. Somebody else may
	// have stored it: it need not pass Check.
	Event(channel int, id ID, m Message)
	// Lost tells that messages of the channel in the asked range are gone, or
	// may be. Oldest is the first position that is left, zero when none is known.
	Lost(channel int, reason string, oldest ID)
}
