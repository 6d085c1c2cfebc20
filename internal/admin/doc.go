// Package admin serves what an operator or a developer at the desk uses: the page at /,
// the API under /api/, POST /publish, /metrics, /health, /ready and, where allowed,
// /debug/pprof. What it tells and does it is given by Config; it keeps nothing itself.
//
// With a token everything but /health and /ready demands it. Without one the listener
// belongs on the loopback interface or into a trusted network: what shows messages or
// clients, and what cannot be undone, is served on loopback only (API.private). Against web
// pages that a browser on the same machine has open, whatever changes something refuses
// other origins, and origins under a foreign host name (browserGuard).
//
// Answers are JSON, errors too: {"error": "…"}.
package admin
