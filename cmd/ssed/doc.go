// Command ssed delivers what backends PUBLISH on Redis to browsers as
// Server-Sent Events.
//
// Without --redis-url it runs embedded: messages come in by POST /publish on the
// admin listener and are kept in memory. With --redis-url it is one of any number
// of equal instances on one Redis; a client may reconnect to each of them with
// its Last-Event-ID.
//
// That is ssed serve, which is meant when no command is given; the others are for
// people at a terminal, see --help. All flags are in ssed serve --help, each with the
// SSED_ environment variable that stands for it; a YAML file may have them too. Exit
// codes: 0 after a drain or when a command did its work, 1 when it could not, 2 for bad
// flags.
//
// This package is the only place that knows flags, environment and metric names,
// and the only one that wires the others together:
//
//	main.go       the command → exit code, signals
//	commands.go   the subcommands, what kong is told, help
//	flags.go      the flags of serve as text
//	file.go       the configuration file
//	config.go     text → checked configuration of every package
//	effective.go  ssed config
//	doctor.go     ssed doctor
//	tail.go       ssed tail
//	pub.go        ssed pub
//	partition.go  ssed partition
//	terminal.go   whether an output is one
//	wire.go       what runs, what it is given, in which order it stops
//	redis.go      the feed and the history around the engine's log
//	fleet.go      what instances tell each other
//	admin.go      the admin listener and what it stands on, which is in
//	              publish.go, inspect.go, history.go, snapshot.go, partitions.go,
//	              instance.go and process.go
//	metrics.go    every metric name, read from the packages' Stats
package main
