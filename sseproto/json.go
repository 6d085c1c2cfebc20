package sseproto

import "unicode/utf8"

// appendMember extends the JSON object that is open in dst since start with one
// string member; an empty value is left out.
func appendMember(dst []byte, start int, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendJSONString(appendMemberName(dst, start, name), value)
}

// appendMemberName begins one more member of the object that is open in dst since
// start.
func appendMemberName(dst []byte, start int, name string) []byte {
	if len(dst) > start {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, `":`...)
}

// appendList adds a member that is a list of strings.
func appendList(dst []byte, start int, name string, values []string) []byte {
	dst = append(appendMemberName(dst, start, name), '[')
	for i, value := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONString(dst, value)
	}
	return append(dst, ']')
}

// appendJSONString writes s as a JSON string (RFC 8259 §7) on one line: controls
// are escaped, so neither a line end nor a NUL comes out, and so are U+2028 and
// U+2029, which end lines in older JavaScript. Invalid UTF-8 becomes U+FFFD.
func appendJSONString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < ' ' || c == 0x7F:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			switch r {
			case '\u2028':
				dst = append(dst, `\u2028`...)
			case '\u2029':
				dst = append(dst, `\u2029`...)
			default:
				dst = utf8.AppendRune(dst, r)
			}
			i += n
		}
	}
	return append(dst, '"')
}
