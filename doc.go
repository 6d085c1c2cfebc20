// Package ssed is a Server-Sent Events gateway as a library: it takes messages, keeps the
// recent ones, and delivers them to browsers, each once and in order.
//
//	gateway, err := ssed.New(ssed.Config{Listen: []string{":8080"}})
//	if err != nil {
//		return err
//	}
//	go gateway.Publish(ctx, "news", ssed.Message{Data: "hello"})
//	return gateway.Run(ctx) // until ctx ends and all streams are closed
//
// A page reads the channel with
//
//	new EventSource("http://host:8080/sse/connect?channel_id=news")
//
// # Embedded and with Redis
//
// Without Config.Redis the gateway is embedded: it is alone, and what it delivers comes
// from Publish. With Config.Redis it delivers what anyone PUBLISHes there, and any number of
// gateways and of ssed programs work together. They have the same FeedConfig.Prefix and
// FeedConfig.Patterns, and give each message the same ID.
//
// Two things are off until they are asked for, because they use Redis for more than
// reading: the history (Config.History, &HistoryConfig{} for its defaults) and the inbox
// (FeedConfig.Inbox). The program ssed has both on.
//
// # What a client gets
//
// A stream gets each message of its channels once and in order. A client that comes back
// with Last-Event-ID, as EventSource does by itself, gets what it missed: from memory, or
// from the history. When something is missing it gets an "event: gap" that says why. The
// paths, the fields and the events are described in docs/PROTOCOL.md.
//
// # Life
//
// New checks the Config, names all bad fields at once, and opens the listeners. Run serves.
// When its context ends it drains: it closes the streams over StreamConfig.Drain, each with
// a time to come back. Then it writes the history to its end, and tells the other instances
// that it leaves. Kill the process no earlier than three seconds after that window.
//
// Two gateways in one process are possible; netpoll, which reads the requests, has its
// settings for the process as a whole. A gateway runs on Linux only. On other systems the
// package compiles and New returns ErrLinux.
//
// # Beyond the package
//
// Flags, environment, the configuration file, tokens of clients, metrics and the admin
// listener belong to the program in cmd/ssed. A library user has Config, Authorizer and
// Stats for them.
//
// # What is promised
//
// This package and sseproto are what importers may rely on, by semantic versions; while
// the version is 0, a minor version may change them, and the change log says how. The other
// packages can be imported, but they change at any time. So do Gateway.Parts and
// Gateway.ReportWith. Names that are aliases here, such as Authorizer, are promised with
// their fields and methods.
package ssed
