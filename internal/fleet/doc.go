// Package fleet lets the instances that share a prefix in Redis know of each other.
//
// Every instance says every few seconds that it is there, in a key that expires when it
// stops saying so: a list of the instances is right within three of these intervals. Names
// are kept in an index, so that listing costs what there are instances, not keys.
//
// All of this lies with the keys of the whole prefix, however many partitions it has: so
// instances with another number of them meet. An instance whose settings do not go with those
// of the others ends before it has written anything, and before it does any work: see
// Fleet.Cleared.
//
// Any instance can ask all of them how many streams a channel has: a notice on the
// control channel, to which each adds its answer in a hash that expires. Who does not
// answer in half a second is left out, and the asker is told that. In the same way it has
// all of them close streams.
//
// Subjects and tokens that are kept out for a while are in a hash that expires. Every
// report looks whether it has changed, so an instance that missed the notice, or has just
// begun, knows it within an interval. Nothing here is needed for the delivery
// of messages, and but for some seconds of a start nothing here holds it up.
package fleet
