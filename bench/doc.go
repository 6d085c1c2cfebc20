// Package bench measures what lies across packages: the memory of an idle
// connection of the real program, the way from PUBLISH to a socket, how fast
// messages come in from a real Redis and go into the history, and the pauses of
// the collector under load. Benchmarks of single parts live beside their code;
// "make bench" runs all and compares them with baseline.txt.
//
// A figure of one machine says little about another. Where a comparison counts,
// both sides run in turn inside one benchmark and their ratio is reported.
package bench
