package engine

import "ssed/engine/internal/front"

// What an Authorizer sees and says.
type (
	// Authorizer decides who may open a stream. See [front.Authorizer].
	Authorizer = front.Authorizer
	// AuthRequest is what an Authorizer may look at.
	AuthRequest = front.AuthRequest
	// Grant is what a client may have.
	Grant = front.Grant
	// Denial is the error of an Authorizer that decided against a client, or could not decide.
	Denial = front.Denial
)

// StartID says which new streams begin with their position.
type StartID = front.StartID

// Who gets it.
const (
	StartIDAuto = front.StartIDAuto // a browser's own EventSource, and who asks
	StartIDOn   = front.StartIDOn   // all but who does not want it
	StartIDOff  = front.StartIDOff  // who asks
)

// MaxSubjectBytes bounds the subject and the token ID of a Grant.
const MaxSubjectBytes = front.MaxSubjectBytes

// FrontStats is a snapshot of accepting and reading requests, part of Stats.
type FrontStats = front.Stats

// RefuseReason names why a connection was not served; the label of a counter.
type RefuseReason = front.RefuseReason

// RefuseReasons lists all reasons, in the order of FrontStats.Refused.
func RefuseReasons() []RefuseReason { return front.RefuseReasons() }
