package engine

import (
	"strconv"
	"strings"
)

// toldLosses is which losses the client of a resume has been told of, and got no message
// of that channel since: it stands at the same place of the channel, and the history
// finds the same loss again at the next page. Immutable, so that clients that were told
// the same still share their reads.
//
// It is text, which can be compared and is nothing where nothing is lost: for each loss
// the index of its channel and the reason.
type toldLosses string

func tellingOf(channel int, reason string) string {
	return " " + strconv.Itoa(channel) + ":" + reason + " "
}

// has reports whether it is one of these. O(losses).
func (t toldLosses) has(channel int, reason string) bool {
	return t != "" && strings.Contains(string(t), tellingOf(channel, reason))
}

// with adds the losses that a page tells, and forgets the channels that have a message
// among the frames.
func (t toldLosses) with(losses []lostRange, frames []frameRef) toldLosses {
	if t == "" && len(losses) == 0 {
		return ""
	}
	moved := make(map[string]bool)
	for _, f := range frames {
		if !f.gap {
			moved[strconv.Itoa(f.channel)] = true
		}
	}
	var next strings.Builder
	keep := func(telling string) {
		if channel, _, _ := strings.Cut(strings.TrimSpace(telling), ":"); !moved[channel] {
			next.WriteString(telling)
		}
	}
	for telling := range strings.FieldsSeq(string(t)) {
		keep(" " + telling + " ")
	}
	for _, l := range losses {
		keep(tellingOf(l.channel, l.reason))
	}
	return toldLosses(next.String())
}
