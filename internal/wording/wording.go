// Package wording makes of the texts of errors what an operator reads: in the log, at /ready
// and in answers of the admin API. Errors begin with the name of the package that made them
// ("rsub: publish: EOF"). That is for who reads the code, and tells nobody else anything.
package wording

import "strings"

var packages = strings.NewReplacer(
	"engine: ", "", "fleet: ", "", "front: ", "", "redisconn: ", "", "rstore: ", "", "rsub: ", "", "sseproto: ", "",
)

// Plain leaves out the names of packages.
func Plain(text string) string { return packages.Replace(text) }
