//go:build linux

// Package refserver has the two servers that others are compared with in the
// same run.
//
// Floor is the least that can be done: accept(2), one write(2) for the response
// head, then one write(2) per message and member from one thread. It parses no
// more than it must, keeps no history, and a message that does not fit a socket is
// lost for it. Silent streams get heartbeats as ssed's do. Its messages come by a
// line protocol, and from a Redis if it is told of one. It shows what the kernel
// costs.
//
// Naive is what is written in an afternoon: net/http, a goroutine and a buffered
// channel per connection, a flush per message, a ticker for heartbeats.
package refserver
