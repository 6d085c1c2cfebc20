// Package redisconn is what the parts of ssed have in common in the use of Redis: the
// options of a client, a client that is made when it is needed, the names of keys, the
// codes of errors, and the call of a script.
//
// It knows one primary, found by its address, by Sentinel, or among the nodes of a Redis
// Cluster by the hash slot in which all keys lie. Clients that lead to the same server can
// share its connections (Shared).
package redisconn
