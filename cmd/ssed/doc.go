// Command ssed delivers what backends PUBLISH on Redis to browsers as
// Server-Sent Events.
//
// Without --redis-url it runs embedded: messages come in by POST /publish on the
// admin listener and are kept in memory. With --redis-url it is one of any number
// of equal instances on one Redis; a client may reconnect to each of them with
// its Last-Event-ID.
//
// All flags are in --help, each with the SSED_ environment variable that stands
// for it. Exit codes: 0 after a drain, 1 when it could not serve, 2 for bad flags.
//
// This package is the only place that knows flags, environment and metric names,
// and the only one that wires the others together:
//
//	main.go     flags → config → serve → exit code, signals
//	flags.go    the command line as text, help
//	config.go   text → checked configuration of every package
//	wire.go     what runs, what it is given, in which order it stops
//	metrics.go  every metric name, read from the packages' Stats
package main
