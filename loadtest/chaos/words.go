//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"
)

func (k key) text() string { return strconv.Itoa(k.publisher) + "." + strconv.Itoa(k.n) }

func (m known) text() string {
	return fmt.Sprintf("%s (%s, ID %v, sent %v, answered %v to %d)", m.key.text(), channelName(m.channel), m.id, m.sent, m.answered, m.receivers)
}

func (c *client) text() string { return "client " + strconv.Itoa(c.index) }

func instanceText(r record) string { return "instance " + strconv.Itoa(r.instance) }

// toldAfter is the first gap event that came after a message was sent: why that does not
// speak of it is the question.
func (p *progress) toldAfter(m known) string {
	for _, t := range p.told {
		if t.at >= m.sent {
			return fmt.Sprintf("; told at %v of what lies behind %v, sent by %v", t.at, t.from, t.fromSent)
		}
	}
	return "; no gap event after that"
}

// around tells what happened to the client at the place of a message that it
// lacks: the records before and after.
func (c *client) around(m known) string {
	at := len(c.records)
	for i, r := range c.records {
		if !m.id.IsZero() && r.kind == recordEvent && m.id.Less(r.id) || m.id.IsZero() && r.at > m.answered {
			at = i
			break
		}
	}
	var b strings.Builder
	for i := max(0, at-4); i < min(len(c.records), at+3); i++ {
		r := c.records[i]
		fmt.Fprintf(&b, "[%v %s", r.at, [...]string{"opened", "event", "gap", "closed"}[r.kind])
		switch r.kind {
		case recordEvent:
			fmt.Fprintf(&b, " %v", r.id)
		case recordGap:
			fmt.Fprintf(&b, " %v %d %s", r.places, r.channel, r.reason)
		}
		fmt.Fprintf(&b, " @%d]", r.instance)
	}
	return b.String()
}
