package sseproto

// MatchGlob reports whether s matches pattern by the rules of Redis PSUBSCRIBE,
// octet by octet and case-sensitive:
//
//	?      one octet
//	*      any octets, none too
//	[abc]  one of these; [^abc] none of these; [a-c] and [c-a] a range
//	\x     x itself, also inside brackets
//
// The corners are those of Redis 7 too: a class without "]" ends with the pattern,
// "[^]" and "[^" match any octet, "[]" none, octets of a range compare as signed (as
// char does on the machines that Redis runs on most), and a lone "\" at the end of the
// pattern is itself. An empty s matches the empty pattern only, not "*".
//
// It takes time in proportion to len(pattern) times len(s) at worst, and no memory.
func MatchGlob(pattern, s string) bool {
	if s == "" {
		return pattern == ""
	}
	p, i := 0, 0
	// star is where the pattern goes on after the last "*", retry where in s that
	// part was last tried. An earlier "*" never needs another try: what lies between
	// two stars fits best as far left as possible.
	star, retry := -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, retry = p, i
			continue
		}
		if p < len(pattern) {
			if n, ok := matchOne(pattern[p:], s[i]); ok {
				p += n
				i++
				continue
			}
		}
		if star < 0 {
			return false
		}
		retry++
		p, i = star, retry
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne matches c with the first element of pattern, which is n octets long and
// not a "*".
func matchOne(pattern string, c byte) (n int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		return matchClass(pattern, c)
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	}
	return 1, pattern[0] == c
}

// matchClass matches c with the class that pattern begins with.
func matchClass(pattern string, c byte) (n int, ok bool) {
	i := 1
	negated := i < len(pattern) && pattern[i] == '^'
	if negated {
		i++
	}
	found := false
	for i < len(pattern) && pattern[i] != ']' {
		switch rest := pattern[i:]; {
		case rest[0] == '\\' && len(rest) > 1:
			found = found || rest[1] == c
			i += 2
		case len(rest) > 2 && rest[1] == '-':
			found = found || inRange(rest[0], rest[2], c)
			i += 3
		default:
			found = found || rest[0] == c
			i++
		}
	}
	return min(i+1, len(pattern)), found != negated
}

// inRange reports whether c lies between the ends, which may stand in either order.
func inRange(from, to, c byte) bool {
	lo, hi := int8(from), int8(to)
	if lo > hi {
		lo, hi = hi, lo
	}
	return lo <= int8(c) && int8(c) <= hi
}
