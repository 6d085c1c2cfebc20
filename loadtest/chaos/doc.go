//go:build linux

// Chaos checks what ssed promises while everything under it breaks: it runs a
// private Redis, several real ssed processes, publishers with unique payloads and
// clients that hop between the instances with their Last-Event-ID, injects faults
// from a seeded plan, and then compares what was published, what the history
// holds and what every client has seen.
//
//	chaos                                  every scenario, about half an hour
//	chaos --scenario links --seed 7        one of them, another plan
//	chaos --markdown docs/GUARANTEES.md    and put the tables into the document
//
// A client counts as wrong when a message of its channels was published while
// somebody was subscribed, has an ID beyond the client's start, never came, and
// no gap event speaks of it; also when a message came twice or out of order.
// What the promise is and what it leaves out: docs/GUARANTEES.md.
//
// Everything it starts ends with it, listens on loopback only, and runs for a
// bounded time. The exit status is 0 when nothing was wrong and every bound kept, 1
// when not, when a run failed or showed nothing, 2 for bad flags.
//
//	main.go       flags, exit status
//	scenario.go   which faults run on which set-up
//	faults.go     what each fault does; those of single scenarios are in files of their own:
//	retention.go  what the history keeps, and for how long
//	hostile.go    what clients do
//	upgrade.go    two programs in one fleet
//	division.go   a network in two parts
//	bent.go       a Redis whose clock can be set
//	runner.go     one scenario from start to verdict
//	cluster.go    Redis, cluster, proxies
//	sentinel.go   a primary with replicas and sentinels
//	network.go    the ways between all of them, which can be cut
//	instance.go   one ssed process
//	publisher.go  messages and what became of their PUBLISH
//	client.go     one client and its record
//	judge.go      record against record: the verdict; no processes, no clocks
//	history.go    reads the streams
//	timeline.go   when an instance delivered, for how long it did not
//	measure.go    bounds: commands per message, ticks, resync of 20,000 channels
//	report.go     text, JSON, Markdown
package main
