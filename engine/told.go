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
// A discontinuity of the log ends that: what the history finds then may be another loss, of
// what was published after the client was told.
//
// It is text, which can be compared and is nothing where nothing is lost: how many
// discontinuities the log had, and for each loss the index of its channel and the reason.
type toldLosses string

// asOf is what still counts when the log has had so many discontinuities.
func (t toldLosses) asOf(discontinuities uint64) toldLosses {
	if strings.HasPrefix(string(t), stampOf(discontinuities)+" ") {
		return t
	}
	return ""
}

func stampOf(discontinuities uint64) string { return "@" + strconv.FormatUint(discontinuities, 10) }

func tellingOf(channel int, reason string) string {
	return " " + strconv.Itoa(channel) + ":" + reason + " "
}

// has reports whether it is one of these. O(losses).
func (t toldLosses) has(channel int, reason string) bool {
	return t != "" && strings.Contains(string(t), tellingOf(channel, reason))
}

// with adds the losses that a page tells, and forgets the channels that have a message
// among the frames. The page was read when the log had had so many discontinuities.
func (t toldLosses) with(discontinuities uint64, losses []lostRange, frames []frameRef) toldLosses {
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
		if telling[0] != '@' {
			keep(" " + telling + " ")
		}
	}
	for _, l := range losses {
		keep(tellingOf(l.channel, l.reason))
	}
	if next.Len() == 0 {
		return ""
	}
	return toldLosses(stampOf(discontinuities) + next.String())
}
