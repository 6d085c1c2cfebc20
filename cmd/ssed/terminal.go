package main

import (
	"fmt"
	"strings"
	"unicode"
)

// visible replaces what could make a terminal do more than show text. Whoever may
// publish on a channel must not rewrite the screen of who watches it. A pipe gets the
// same: what is at its other end is often a terminal.
func visible(text string) string { return escaped(text, `\x%02x`) }

// escaped writes each character that isActive by its number, in that format. Numbers of
// more than two digits take \u. Bytes that are no UTF-8, in which some terminals find
// control characters, become U+FFFD.
func escaped(text, format string) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if !strings.ContainsFunc(text, isActive) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !isActive(r):
			b.WriteRune(r)
		case r > 0xff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, format, r)
		}
	}
	return b.String()
}

// isActive tells characters that change how others are shown: controls but tabs and line
// ends, marks that turn the direction of text (Unicode TR 36, section 3.1: they can swap
// the words of a line), and the two line ends of Unicode.
func isActive(r rune) bool {
	switch {
	case r == '\t' || r == '\n':
		return false
	case r == '\u2028' || r == '\u2029':
		return true
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}
