//go:build linux

// Loadtest measures SSE servers side by side: how much memory a connection costs,
// how many deliveries a CPU second buys, how late messages arrive and whether any
// is lost, repeated or out of order.
//
//	loadtest fanout --with floor --with naive --html report.html
//	loadtest hold --with floor --with ssed --ssed-bin bin/ssed --conns 15000
//	loadtest spread --target 'name=mine;url=http://127.0.0.1:8080/sse?ch={channel};publish=redis://127.0.0.1;pid=4711'
//
// The program's promises:
//
//   - nothing is sent to another host unless --i-own-this-host is given;
//   - connections, time and processes are bounded by flags with defaults;
//   - every process it starts ends with it, also after an interrupt;
//   - what a figure means is in docs/LOADTEST.md, and no figure is printed
//     without the counters of lost, repeated and disordered messages.
//
// The exit status is 0 when all runs went through without a fault, 1 when a
// message was lost, repeated, late or torn or a run failed, 2 for bad flags.
package main
