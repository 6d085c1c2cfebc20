//go:build linux

// Package swarm holds very many Server-Sent Events connections in one thread: an
// epoll loop over a dense array of 128-byte slots, one shared read buffer, no
// goroutine and no buffer per connection. A swarm reads streams incrementally,
// judges every delivery (lost, duplicate, late, for another channel, torn) and
// measures its latency from the time the message was due to be sent.
//
// Promises:
//   - a connection costs 128 bytes of user memory, whatever arrives on it;
//   - any chunking of a stream gives the same counts;
//   - methods may be called from any goroutine; one command runs at a time;
//   - Close ends the loop, closes every descriptor and waits for both.
//
// Streams may be close-delimited or chunked. Lines end with LF or CR LF; a bare
// CR does not end a line here, though the WHATWG text allows it.
package swarm
