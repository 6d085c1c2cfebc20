package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ssed"
	"ssed/internal/admin"
	"ssed/internal/auth"
	"ssed/internal/invalid"
	"ssed/internal/redisconn"
)

// config is the checked command line.
type config struct {
	gateway ssed.Config
	auth    auth.Config

	admin          string        // "": none
	adminTokens    []admin.Token // none: no token is demanded
	adminTokenFile string        // "": they come from elsewhere
	adminPprof     bool

	publish string // "": none

	logLevel slog.Level
	logJSON  bool
}

// config checks f and reports every problem at once, by flag name. What concerns Redis is
// checked without it too: a typo should not wait for the day on which it is added.
func (f *flags) config() (config, error) {
	var p problems
	cfg := config{
		gateway:        f.gatewayConfig(&p),
		auth:           f.authConfig(&p),
		admin:          p.adminAddr(f.Admin),
		publish:        p.publishAddr(f.PublishListen),
		adminTokens:    p.adminTokens(f.AdminToken, f.AdminTokenFile),
		adminTokenFile: f.AdminTokenFile,
		adminPprof:     p.toggle("--pprof", f.Pprof),
		logLevel:       p.level(f.LogLevel),
		logJSON:        p.choice("--log-format", f.LogFormat, "text", "json") == "json",
	}
	p.fields(cfg.gateway.Validate())
	p.fields(cfg.auth.Validate())
	if p.choice("--history", f.History, "on", "off") == "off" {
		cfg.gateway.History = nil
	}
	return cfg, errors.Join(p...)
}

func (f *flags) gatewayConfig(p *problems) ssed.Config {
	return ssed.Config{
		Listen: given(f.Listen),
		Redis:  p.optionalRedis(f.redis()),
		Feed: ssed.FeedConfig{
			Patterns:      given(f.Patterns),
			Prefix:        p.notEmpty("--stream-prefix", f.StreamPrefix),
			Instance:      f.Instance,
			Subscriptions: p.count("--redis-feeds", f.RedisFeeds),
			TickInterval:  p.positive("--tick-interval", f.TickInterval),
			ProbeTimeout:  p.positive("--probe-timeout", f.ProbeTimeout),
			Envelope:      p.choice("--envelope", f.Envelope, "off", "json") == "json",
			Partitions:    p.count("--partitions", f.Partitions),
			Sharded:       p.choice("--feed", f.Feed, "pattern", "sharded") == "sharded",
			BatchChannel:  f.BatchChannel,
			Inbox:         p.inbox(f.Inbox, f.History, f.StreamPrefix),
			ClockOffset:   p.duration("--test-clock-offset", f.TestClockOffset, -24*time.Hour),
		},
		History: &ssed.HistoryConfig{
			MaxLen:        p.count("--history-max", f.HistoryMax),
			Window:        p.window(f.HistoryWindow),
			Cap:           p.count("--history-cap", f.HistoryCap),
			TTL:           p.positive("--history-ttl", f.HistoryTTL),
			BatchSize:     p.count("--batch-size", f.BatchSize),
			FlushInterval: p.positive("--flush-interval", f.FlushInterval),
			GapWait:       p.positive("--gap-wait", f.GapWait),
			Wait:          p.positive("--history-wait", f.HistoryWait),
			Readers:       p.count("--history-readers", f.HistoryReaders),
		},
		Policies: p.policies(f.Policy),
		Streams:  f.streamConfig(p),
	}
}

func (f *flags) streamConfig(p *problems) ssed.StreamConfig {
	retryMin, retryMax := p.retry(f.Retry)
	rate, burst := p.rate("--connect-rate-per-ip", f.ConnectRate)
	return ssed.StreamConfig{
		SocketMode:       p.mode("--listen-mode", f.ListenMode),
		ReusePort:        p.toggle("--reuse-port", f.ReusePort),
		Shards:           p.optionalCount("--shards", f.Shards),
		RingBytes:        p.bytes("--ring-bytes", f.RingBytes, 1, 1<<50),
		MaxMessageBytes:  int(p.bytes("--max-message-bytes", f.MaxMessage, 1, maxInput)),
		MaxConnections:   p.optionalCount("--max-connections", f.MaxConnections),
		MaxPerAddress:    p.number("--max-connections-per-ip", f.MaxPerAddress),
		MaxPerSubject:    p.number("--max-connections-per-subject", f.MaxPerSubject),
		ConnectRate:      rate,
		ConnectBurst:     burst,
		TrustedProxies:   p.networks("--trusted-proxies", f.TrustedProxies),
		ProxyProtocol:    p.toggle("--proxy-protocol", f.ProxyProtocol),
		PeerTimeout:      p.durationOrOff("--peer-timeout", f.PeerTimeout),
		HandshakeTimeout: p.positive("--handshake-timeout", f.HandshakeTimeout),
		AuthTimeout:      authBackstop,
		MaxAge:           p.duration("--max-age", f.MaxAge, 0),
		MaxChannels:      p.count("--max-channels-per-connection", f.MaxChannels),
		MaxHeadBytes:     int(p.bytes("--max-head", f.MaxHead, 1, maxInput)),
		BroadcastChannel: f.Broadcast,
		Heartbeat:        p.durationOrOff("--heartbeat", f.Heartbeat),
		HeartbeatEvent:   f.HeartbeatEvent,
		StartID:          p.startID(f.StartID),
		Unchunked:        p.choice("--chunked", f.Chunked, "on", "off") == "off",
		RetryMin:         retryMin,
		RetryMax:         retryMax,
		Drain:            max(p.duration("--drain", f.Drain, 0), 1), // zero is the default
		Hosts:            f.Hosts,
		CORSOrigins:      given(f.CORSOrigins),
		CORSCredentials:  p.toggle("--cors-credentials", f.CORSCredentials),
	}
}

// authBackstop ends a decision that should have ended by itself: --auth-timeout is a
// minute at most.
const authBackstop = 75 * time.Second

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

// authConfig reads the flags of access. What they mean together, auth.Config checks.
func (f *flags) authConfig(p *problems) auth.Config {
	p.completeURL("--auth-jwks-url", f.AuthJWKSURL)
	p.completeURL("--auth-url", f.AuthURL)
	return auth.Config{
		Mode:          auth.Mode(strings.ToLower(f.Auth)),
		JWTSecretFile: f.AuthJWTSecretFile,
		JWTSecret:     auth.Secret(os.Getenv(envJWTSecret)),
		JWTKeyFile:    f.AuthJWTKeyFile,
		JWKSURL:       f.AuthJWKSURL,
		JWTAudience:   f.AuthJWTAudience,
		JWTIssuer:     f.AuthJWTIssuer,
		JWTLeeway:     p.durationOrOff("--auth-jwt-leeway", f.AuthJWTLeeway),
		Cookie:        f.AuthCookie,
		Query:         f.AuthQuery,
		URL:           f.AuthURL,
		Timeout:       p.duration("--auth-timeout", f.AuthTimeout, time.Millisecond),
		Concurrency:   p.count("--auth-concurrency", f.AuthConcurrency),
		CacheTTL:      p.durationOrOff("--auth-cache-ttl", f.AuthCacheTTL),
		RequireExp:    p.toggle("--auth-require-exp", f.AuthRequireExp),

		Publishers: p.publishers(f),

		ProxyFromEnvironment: p.toggle("--auth-proxy-env", f.AuthProxyEnv),

		ChannelsAllow: f.ChannelsAllow,
		ChannelsDeny:  f.ChannelsDeny,
	}
}

// publishers are nobody without a listener for them.
func (p *problems) publishers(f *flags) *auth.PublisherKeys {
	if f.PublishListen != "" {
		return &auth.PublisherKeys{SecretFile: f.PublishJWTSecretFile, KeyFile: f.PublishJWTKeyFile}
	}
	for flag, value := range map[string]string{
		"--publish-jwt-secret-file": f.PublishJWTSecretFile, "--publish-jwt-key-file": f.PublishJWTKeyFile,
	} {
		if value != "" {
			p.add(flag, "needs --publish-listen")
		}
	}
	return nil
}

// envJWTSecret has no flag: a command line is visible to other users.
const envJWTSecret = "SSED_AUTH_JWT_SECRET"

// problems collects what is wrong with the flags. A method that adds to it
// returns a value of no meaning.
type problems []error

func (p *problems) add(flag, format string, args ...any) {
	*p = append(*p, fmt.Errorf(flag+": "+format, args...))
}

// duration reads a time. What is refused is 0, of which packages do not complain again.
func (p *problems) duration(flag, text string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil && text != "0":
		p.add(flag, "%q is not a time such as 500ms, 10s or 1h", text)
	case d < least:
		p.add(flag, "%v is less than %v", d, least)
	default:
		return d
	}
	return 0
}

// positive reads a time of which 0 has no meaning here, and is the default of the
// package. What else is the least, the package knows.
func (p *problems) positive(flag, text string) time.Duration {
	before := len(*p)
	d := p.duration(flag, text, 0)
	if d == 0 && len(*p) == before {
		p.add(flag, "it must be more than 0")
	}
	return d
}

// durationOrOff reads a time of which 0 means none, where a package takes a
// negative one for that and 0 for its default.
func (p *problems) durationOrOff(flag, text string) time.Duration {
	d := p.duration(flag, text, 0)
	if d == 0 {
		return -1
	}
	return d
}

// window reads --history-window.
func (p *problems) window(text string) time.Duration {
	if text == "auto" {
		return 0
	}
	return p.durationOrOff("--history-window", text)
}

// retry reads "2s-5s", or "2s" for no spread.
func (p *problems) retry(text string) (least, most time.Duration) {
	first, second, isRange := strings.Cut(text, "-")
	least, err := time.ParseDuration(strings.TrimSpace(first))
	most = least
	if isRange && err == nil {
		most, err = time.ParseDuration(strings.TrimSpace(second))
	}
	switch {
	case err != nil:
		p.add("--retry", "%q is not a range of times such as 2s-5s", text)
	case least < time.Millisecond || most < least:
		p.add("--retry", "%q: the first must be at least 1ms and not more than the second", text)
	default:
		return least, most
	}
	return 0, 0
}

func (p *problems) count(flag, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		p.add(flag, "%q is not a whole number of at least 1", text)
		return 1
	}
	return n
}

// number is count with 0 for no limit.
func (p *problems) number(flag, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		p.add(flag, "%q is not a whole number", text)
		return 0
	}
	return n
}

// rate reads "N" or "N:BURST".
func (p *problems) rate(flag, text string) (perSecond, burst int) {
	first, second, hasBurst := strings.Cut(text, ":")
	perSecond = p.number(flag, first)
	if hasBurst {
		burst = p.count(flag, second)
	}
	return perSecond, burst
}

// networks reads networks, or single addresses.
func (p *problems) networks(flag string, list []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); err != nil && addrErr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			p.add(flag, "%q is not a network or an address such as 192.0.2.1 or 192.0.2.0/24", text)
			continue
		}
		all = append(all, prefix.Masked())
	}
	return all
}

// mode reads permissions as chmod does, in octal; 0 for a flag that was not given.
func (p *problems) mode(flag, text string) fs.FileMode {
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n == 0 || n > uint64(fs.ModePerm) {
		p.add(flag, "%q is not the octal digits of permissions, such as 0660", text)
		return 0
	}
	return fs.FileMode(n)
}

// optionalCount returns 0 for a flag that was not given.
func (p *problems) optionalCount(flag, text string) int {
	if text == "" {
		return 0
	}
	return p.count(flag, text)
}

func (p *problems) bytes(flag, text string, least, most int64) int64 {
	number, shift := strings.TrimSpace(text), 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, found := strings.CutSuffix(number, unit); found {
			number, shift = strings.TrimSpace(n), 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil || n < 0 || n > 1<<62>>shift:
		p.add(flag, "%q is not a number of bytes such as 65536, 64KiB, 1MiB or 2GiB", text)
	case n<<shift < least:
		p.add(flag, "%s is less than %d bytes", text, least)
	case n<<shift > most:
		p.add(flag, "%s is more than %d bytes", text, most)
	default:
		return n << shift
	}
	return 0
}

func (p *problems) toggle(flag string, text toggle) bool {
	switch strings.ToLower(string(text)) {
	case "true", "1", "yes", "on":
		return true
	case "", "false", "0", "no", "off":
		return false
	}
	p.add(flag, "%q is neither true nor false", string(text))
	return false
}

func (p *problems) choice(flag, text string, options ...string) string {
	for _, option := range options {
		if strings.EqualFold(text, option) {
			return option
		}
	}
	p.add(flag, "%q is not one of %s", text, strings.Join(options, ", "))
	return ""
}

func (p *problems) startID(text string) ssed.StartID {
	switch p.choice("--start-id", text, "auto", "on", "off") {
	case "on":
		return ssed.StartIDOn
	case "off":
		return ssed.StartIDOff
	}
	return ssed.StartIDAuto
}

func (p *problems) level(text string) slog.Level {
	var level slog.Level
	name := p.choice("--log-level", text, "debug", "info", "warn", "error")
	_ = level.UnmarshalText([]byte(name)) // all four are slog's own names
	return level
}

// given is a list that counts as given even when it is empty: the engine would take
// no list for its default.
func given(list []string) []string { return append([]string{}, list...) }

func (p *problems) adminAddr(text string) string {
	if text == "off" {
		return ""
	}
	return p.address("--admin", text)
}

func (p *problems) publishAddr(text string) string {
	if text == "" {
		return ""
	}
	return p.address("--publish-listen", text)
}

func (p *problems) address(flag, text string) string {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		p.add(flag, "%q is not an address such as 127.0.0.1:9090, [::1]:9090 or :9090", text)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		p.add(flag, "%q: the port is not a number from 0 to 65535", text)
	}
	return text
}

// adminTokens never repeats what it checks.
func (p *problems) adminTokens(text, path string) []admin.Token {
	if path == "" {
		if text == "" {
			return nil
		}
		if err := admin.CheckToken(text); err != nil {
			p.add("--admin-token", "%w", err)
		}
		return []admin.Token{{Role: admin.RoleAll, Name: string(admin.RoleAll), Text: text}}
	}
	if text != "" {
		p.add("--admin-token-file", "only one of it and --admin-token can be given")
		return nil
	}
	tokens, err := admin.ReadTokens(path)
	if err != nil {
		p.add("--admin-token-file", "%w", err)
	}
	return tokens
}

// completeURL leaves it to the package what else is wrong with the URL, such as a user.
func (p *problems) completeURL(flag, text string) {
	if isLeftOut(text) {
		p.add(flag, "a secret is left out, as in the output of ssed config: put it in")
	}
}

// notEmpty is for a text whose empty value would be the default of the package.
func (p *problems) notEmpty(flag, text string) string {
	if text == "" {
		p.add(flag, "it is empty")
	}
	return text
}

// autoInbox is the default of --inbox: the inbox of the prefix, and without a history none.
const autoInbox = "auto"

// inbox reads the key, "" for none.
func (p *problems) inbox(text, history, prefix string) string {
	if text == autoInbox {
		text = redisconn.DefaultInbox(prefix)
	}
	switch {
	case text == "off":
		return ""
	case !strings.EqualFold(history, "off") || text == "":
		return text
	case text != redisconn.DefaultInbox(prefix):
		p.add("--inbox", "it takes --history=on: entries are kept until the history has them")
	}
	return ""
}
