// Package redislua has the Lua that scripts of several packages share. A script is
// joined from such parts and its own text; all parts define are local functions.
package redislua

import _ "embed" // the parts

var (
	// IDs compares IDs of streams, exactly.
	//
	//go:embed ids.lua
	IDs string

	// InboxNotes reads and writes the notes of the inbox: the one place that knows their form.
	//
	//go:embed notes.lua
	InboxNotes string

	// Globs matches channels as sseproto.MatchGlob does.
	//
	//go:embed glob.lua
	Globs string
)
