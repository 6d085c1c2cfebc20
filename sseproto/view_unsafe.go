//go:build !sseproto_safe

package sseproto

import "unsafe"

// viewOf returns b as a string without a copy. It is valid, and must not be kept,
// beyond the time for which b is neither changed nor reused. The build tag
// sseproto_safe takes a copy instead.
func viewOf[T ~string | ~[]byte](b T) string {
	if len(b) == 0 {
		return ""
	}
	// The first word of a string and of a slice is the address of its bytes; a
	// string has nothing else but the length, which the slice has next.
	return *(*string)(unsafe.Pointer(&b))
}

// bytesOf returns s as a slice without a copy. It must not be written to. The build
// tag sseproto_safe takes a copy instead.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
