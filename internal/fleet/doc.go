// Package fleet lets the instances that share a prefix in Redis know of each other.
//
// Every instance says every few seconds that it is there, in a key that expires when it
// stops saying so: a list of the instances is right within three of these intervals. Names
// are kept in an index, so that listing costs what there are instances, not keys.
//
// Any instance can ask all of them how many streams a channel has: a notice on the
// control channel, to which each adds its answer in a hash that expires. Who does not
// answer in half a second is left out, and the asker is told that. Nothing here is
// needed for the delivery of messages, and nothing here holds it up.
package fleet
