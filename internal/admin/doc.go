// Package admin serves what an operator or a developer at the desk uses: the page
// at /, POST /publish, /metrics, /health, /ready and, where allowed, /debug/pprof.
//
// There is no authentication: the listener belongs on the loopback interface or
// into a trusted network. Against web pages that a browser on the same machine
// has open, POST /publish refuses what comes from another origin, and origins
// under a foreign host name (DNS rebinding); see browserGuard.
package admin
