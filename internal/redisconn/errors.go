package redisconn

import (
	"strings"

	"github.com/redis/rueidis"
)

// Codes of error answers that callers branch on.
const (
	CodeGeneric     = "ERR"         // none of its own
	CodeNoScript    = "NOSCRIPT"    // the script is not in the cache of the server
	CodeNoPerm      = "NOPERM"      // the user lacks a right
	CodeReadOnly    = "READONLY"    // a replica
	CodeWrongType   = "WRONGTYPE"   // the key holds another type
	CodeTryAgain    = "TRYAGAIN"    // the slot of the keys is on the move, and some are not here
	CodeMoved       = "MOVED"       // another node has the slot of the keys
	CodeClusterDown = "CLUSTERDOWN" // the node sees too few others, or nobody has the slot
	CodeMasterDown  = "MASTERDOWN"  // a replica without its primary
	CodeLoading     = "LOADING"     // the server reads its data
	CodeMisconf     = "MISCONF"     // it cannot save, and takes no writes
	CodeNoReplicas  = "NOREPLICAS"  // too few replicas are near (min-replicas-to-write)
	CodeBusy        = "BUSY"        // a script runs for too long
	CodeOOM         = "OOM"         // memory is full
)

// IsMoved tells of an error answer that another node of the cluster may be the primary.
// ASK and TRYAGAIN do not: a slot on the move is served by the old node until all of it
// has moved, and nobody else sees what is published elsewhere meanwhile.
func IsMoved(err error) bool {
	switch Code(err) {
	case CodeMoved, CodeClusterDown, CodeMasterDown, CodeReadOnly:
		return true
	}
	return false
}

// Code returns the code that an error answer of Redis starts with, which is what the
// protocol offers to branch on; "" for any other error: then there was no answer.
func Code(err error) string {
	if e, ok := rueidis.IsRedisErr(err); ok {
		return CodeOf(e.Error())
	}
	return ""
}

// CodeOf returns the code in front of the text of an error answer. The client
// takes CodeGeneric away: text that begins with another word has that one.
func CodeOf(text string) string {
	code, _, _ := strings.Cut(text, " ")
	for _, c := range []byte(code) {
		if c < 'A' || c > 'Z' {
			return CodeGeneric
		}
	}
	return code
}
