// Package target knows how to reach and to watch a server under test: its URL
// and publish templates, a pipelining publisher for Redis, HTTP and the line
// protocol of the floor server, and its processes' CPU time, memory and
// descriptors from /proc.
package target
