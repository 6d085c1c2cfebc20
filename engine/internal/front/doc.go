// Package front is the way in: it accepts connections, reads their requests, answers the
// plain ones, and hands those that become streams over to the engine.
//
// What it hands over is a Stream: a descriptor that nobody else watches, the channels, and
// where the client goes on. It knows nothing of the log and of the loops: see Host.
//
// Netpoll keeps a connection only while its request is read. Then it is detached and the
// bare descriptor goes on, see handshake. A request that is whole when its connection is
// accepted does not pass through netpoll at all, see attachDirectly.
package front
