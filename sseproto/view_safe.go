//go:build sseproto_safe

package sseproto

// viewOf is the twin without unsafe: a copy, which allocates when b is long.
func viewOf[T ~string | ~[]byte](b T) string { return string(b) }

// bytesOf is the twin without unsafe: a copy.
func bytesOf(s string) []byte { return []byte(s) }
