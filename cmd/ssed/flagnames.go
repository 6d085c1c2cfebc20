package main

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"ssed/internal/invalid"
)

// flagOfField names the flag that sets a field of ssed.Config.
var flagOfField = map[string]string{
	"Listen":                   "--listen",
	"Redis":                    "--redis-url",
	"Feed.Patterns":            "--patterns",
	"Feed.Prefix":              "--stream-prefix",
	"Feed.Instance":            "--instance",
	"Feed.Subscriptions":       "--redis-feeds",
	"Feed.TickInterval":        "--tick-interval",
	"Feed.ProbeTimeout":        "--probe-timeout",
	"Feed.Envelope":            "--envelope",
	"Feed.Sharded":             "--feed",
	"Feed.Partitions":          "--partitions",
	"Feed.BatchChannel":        "--batch-channel",
	"Feed.Inbox":               "--inbox",
	"Feed.ClockOffset":         "--test-clock-offset",
	"History.MaxLen":           "--history-max",
	"History.Window":           "--history-window",
	"History.Cap":              "--history-cap",
	"History.TTL":              "--history-ttl",
	"History.BatchSize":        "--batch-size",
	"History.FlushInterval":    "--flush-interval",
	"History.GapWait":          "--gap-wait",
	"History.Wait":             "--history-wait",
	"History.Readers":          "--history-readers",
	"Policies":                 "--policy",
	"Streams.SocketMode":       "--listen-mode",
	"Streams.ReusePort":        "--reuse-port",
	"Streams.Shards":           "--shards",
	"Streams.RingBytes":        "--ring-bytes",
	"Streams.MaxMessageBytes":  "--max-message-bytes",
	"Streams.MaxConnections":   "--max-connections",
	"Streams.MaxPerAddress":    "--max-connections-per-ip",
	"Streams.MaxPerSubject":    "--max-connections-per-subject",
	"Streams.ConnectRate":      "--connect-rate-per-ip",
	"Streams.ConnectBurst":     "--connect-rate-per-ip",
	"Streams.TrustedProxies":   "--trusted-proxies",
	"Streams.ProxyProtocol":    "--proxy-protocol",
	"Streams.PeerTimeout":      "--peer-timeout",
	"Streams.HandshakeTimeout": "--handshake-timeout",
	"Streams.MaxAge":           "--max-age",
	"Streams.MaxChannels":      "--max-channels-per-connection",
	"Streams.MaxHeadBytes":     "--max-head",
	"Streams.BroadcastChannel": "--broadcast-channel",
	"Streams.Heartbeat":        "--heartbeat",
	"Streams.HeartbeatEvent":   "--heartbeat-event",
	"Streams.StartID":          "--start-id",
	"Streams.Unchunked":        "--chunked",
	"Streams.RetryMin":         "--retry",
	"Streams.RetryMax":         "--retry",
	"Streams.Drain":            "--drain",
	"Streams.Hosts":            "--hosts",
	"Streams.CORSOrigins":      "--cors-origins",
	"Streams.CORSCredentials":  "--cors-credentials",
}

// flagOfAuthField does the same for auth.Config.
var flagOfAuthField = map[string]string{
	"Mode":                  "--auth",
	"JWTSecretFile":         "--auth-jwt-secret-file",
	"JWTSecret":             "$" + envJWTSecret,
	"JWTKeyFile":            "--auth-jwt-key-file",
	"JWKSURL":               "--auth-jwks-url",
	"JWTAudience":           "--auth-jwt-audience",
	"JWTIssuer":             "--auth-jwt-issuer",
	"JWTLeeway":             "--auth-jwt-leeway",
	"Cookie":                "--auth-cookie",
	"Query":                 "--auth-query",
	"URL":                   "--auth-url",
	"Timeout":               "--auth-timeout",
	"Concurrency":           "--auth-concurrency",
	"CacheTTL":              "--auth-cache-ttl",
	"RequireExp":            "--auth-require-exp",
	"ProxyFromEnvironment":  "--auth-proxy-env",
	"Publishers":            "--publish-listen",
	"Publishers.SecretFile": "--publish-jwt-secret-file",
	"Publishers.KeyFile":    "--publish-jwt-key-file",
	"ChannelsAllow":         "--channels-allow",
	"ChannelsDeny":          "--channels-deny",
}

// flagOf is the flag that sets a field; its own name when none does.
func flagOf(field *invalid.Field) string {
	flags := flagOfField
	if field.Package == "auth" {
		flags = flagOfAuthField
	}
	return cmp.Or(flags[field.Name], field.Name)
}

// fieldsToFlags is for texts that name a second field.
var fieldsToFlags = func() *strings.Replacer {
	flags := map[string]string{"Feed.Sharded=true": "--feed=sharded"}
	for field, flag := range flagOfField {
		if strings.Contains(field, ".") { // Listen and Redis are words too
			flags[field] = flag
		}
	}
	for field, flag := range flagOfAuthField {
		flags["Config."+field] = flag
	}
	var pairs []string // of two names that begin alike the longer one first
	for _, field := range slices.Backward(slices.Sorted(maps.Keys(flags))) {
		pairs = append(pairs, field, flags[field])
	}
	return strings.NewReplacer(pairs...)
}()

// byFlag is err with the flags that set the fields of which it complains.
func byFlag(err error) error {
	var p problems
	if p.fields(err); len(p) > 0 {
		return errors.Join(p...)
	}
	return err
}

// fields adds what ssed.Config.Validate or auth.Config.Validate has found.
func (p *problems) fields(err error) {
	for _, field := range invalid.Of(err) {
		p.add(flagOf(field), "%s", fieldsToFlags.Replace(field.Err.Error()))
	}
}
