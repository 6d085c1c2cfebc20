package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/engine"
	"ssed/internal/admin"
	"ssed/internal/auth"
	"ssed/rsub"
	"ssed/sseproto"
)

// config is the checked command line.
type config struct {
	engine engine.Config
	redis  *redisConfig // nil: embedded

	auth auth.Config

	admin          string        // "": none
	adminTokens    []admin.Token // none: no token is demanded
	adminTokenFile string        // "": they come from elsewhere
	adminPprof     bool

	maxMessageBytes int
	instance        string

	logLevel slog.Level
	logJSON  bool
}

// redisConfig is what only the Redis mode needs.
type redisConfig struct {
	client       rueidis.ClientOption
	patterns     []string
	prefix       string
	feeds        int
	tickInterval time.Duration
	probeTimeout time.Duration
	clockOffset  time.Duration
	history      *historyConfig // nil: off
	inbox        string         // "": none
}

type historyConfig struct {
	maxLen        int
	ttl           time.Duration
	batchSize     int
	flushInterval time.Duration
	gapWait       time.Duration
}

// config checks f and reports every problem at once, by flag name.
func (f *flags) config() (config, error) {
	var p problems
	cfg := config{
		engine:          f.engineConfig(&p),
		redis:           f.redisConfig(&p),
		auth:            f.authConfig(&p),
		admin:           p.adminAddr(f.Admin),
		adminTokens:     p.adminTokens(f.AdminToken, f.AdminTokenFile),
		adminTokenFile:  f.AdminTokenFile,
		adminPprof:      p.toggle("--pprof", f.Pprof),
		maxMessageBytes: int(p.bytes("--max-message-bytes", f.MaxMessage, 1, 256<<20)),
		instance:        p.instance(f.Instance),
		logLevel:        p.level(f.LogLevel),
		logJSON:         p.choice("--log-format", f.LogFormat, "text", "json") == "json",
	}
	for _, part := range []interface{ Validate() error }{cfg.engine, cfg.auth} {
		if err := part.Validate(); err != nil {
			p = append(p, err)
		}
	}
	return cfg, errors.Join(p...)
}

func (f *flags) engineConfig(p *problems) engine.Config {
	retryMin, retryMax := p.retry(f.Retry)
	rate, burst := p.rate("--connect-rate-per-ip", f.ConnectRate)
	return engine.Config{
		Listen:           given(f.Listen),
		SocketMode:       p.mode("--listen-mode", f.ListenMode),
		ReusePort:        p.toggle("--reuse-port", f.ReusePort),
		Shards:           p.optionalCount("--shards", f.Shards),
		Envelope:         p.choice("--envelope", f.Envelope, "off", "json") == "json",
		RingBytes:        p.bytes("--ring-bytes", f.RingBytes, 1, 1<<50),
		MaxConnections:   p.optionalCount("--max-connections", f.MaxConnections),
		MaxPerAddress:    p.number("--max-connections-per-ip", f.MaxPerAddress),
		ConnectRate:      rate,
		ConnectBurst:     burst,
		TrustedProxies:   p.networks("--trusted-proxies", f.TrustedProxies),
		ProxyProtocol:    p.toggle("--proxy-protocol", f.ProxyProtocol),
		PeerTimeout:      p.durationOrOff("--peer-timeout", f.PeerTimeout),
		MaxAge:           p.duration("--max-age", f.MaxAge, 0),
		HeartbeatEvent:   f.HeartbeatEvent,
		MaxChannels:      p.count("--max-channels-per-connection", f.MaxChannels),
		BroadcastChannel: p.broadcast(f.Broadcast, f.Patterns),
		HandshakeTimeout: p.duration("--handshake-timeout", f.HandshakeTimeout, time.Millisecond),
		Heartbeat:        p.heartbeat(f.Heartbeat),
		RetryMin:         retryMin,
		RetryMax:         retryMax,
		AuthTimeout:      authBackstop,
		Drain:            max(p.duration("--drain", f.Drain, 0), 1), // engine: zero is the default
		CORSOrigins:      given(f.CORSOrigins),
		CORSCredentials:  p.toggle("--cors-credentials", f.CORSCredentials),
		HistoryWait:      p.duration("--history-wait", f.HistoryWait, time.Millisecond),
		HistoryReaders:   p.count("--history-readers", f.HistoryReaders),
	}
}

// authBackstop ends a decision that should have ended by itself: --auth-timeout is a
// minute at most.
const authBackstop = 75 * time.Second

// redisConfig checks its flags in embedded mode too: a typo should not wait for
// the day on which Redis is added.
func (f *flags) redisConfig(p *problems) *redisConfig {
	cfg := &redisConfig{
		patterns:     p.patterns(f.Patterns),
		prefix:       p.prefix(f.StreamPrefix),
		feeds:        p.count("--redis-feeds", f.RedisFeeds),
		tickInterval: p.duration("--tick-interval", f.TickInterval, 10*time.Millisecond),
		probeTimeout: p.duration("--probe-timeout", f.ProbeTimeout, 10*time.Millisecond),
		clockOffset:  p.duration("--test-clock-offset", f.TestClockOffset, -24*time.Hour),
	}
	if cfg.feeds > 2 {
		p.add("--redis-feeds", "%d is more than 2", cfg.feeds)
	}
	if cfg.probeTimeout < 2*cfg.tickInterval {
		p.add("--probe-timeout", "%v is less than two tick intervals", cfg.probeTimeout)
	}
	history := &historyConfig{
		maxLen:        p.count("--history-max", f.HistoryMax),
		ttl:           p.duration("--history-ttl", f.HistoryTTL, time.Second),
		batchSize:     p.count("--batch-size", f.BatchSize),
		flushInterval: p.duration("--flush-interval", f.FlushInterval, time.Millisecond),
		gapWait:       p.duration("--gap-wait", f.GapWait, 250*time.Millisecond),
	}
	if history.batchSize > 10_000 {
		p.add("--batch-size", "%d is more than 10000: Redis does nothing else while it writes a batch", history.batchSize)
	}
	if p.choice("--history", f.History, "on", "off") == "on" {
		cfg.history = history
	}
	cfg.inbox = p.inbox(f.Inbox, cfg)
	var ok bool
	if cfg.client, ok = p.redis(f.RedisURL, f.RedisURLFile); !ok {
		return nil
	}
	return cfg
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

		ProxyFromEnvironment: p.toggle("--auth-proxy-env", f.AuthProxyEnv),

		ChannelsAllow: f.ChannelsAllow,
		ChannelsDeny:  f.ChannelsDeny,
	}
}

// envJWTSecret has no flag: a command line is visible to other users.
const envJWTSecret = "SSED_AUTH_JWT_SECRET"

// problems collects what is wrong with the flags. A method that adds to it
// returns a value of no meaning.
type problems []error

func (p *problems) add(flag, format string, args ...any) {
	*p = append(*p, fmt.Errorf(flag+": "+format, args...))
}

func (p *problems) duration(flag, text string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil && text != "0":
		p.add(flag, "%q is not a time such as 500ms, 10s or 1h", text)
	case d < least:
		p.add(flag, "%v is less than %v", d, least)
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

func (p *problems) heartbeat(text string) time.Duration {
	d := p.durationOrOff("--heartbeat", text)
	if d > 0 && d < time.Second {
		p.add("--heartbeat", "%v is less than 1s", d)
	}
	return d
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
	}
	return least, most
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
			p.add(flag, "%q is not a network or an address such as 10.0.0.0/8 or 192.0.2.1", text)
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
	}
	return n << shift
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
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		p.add("--admin", "%q is not an address such as 127.0.0.1:9090, [::1]:9090 or :9090", text)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		p.add("--admin", "%q: the port is not a number from 0 to 65535", text)
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

func (p *problems) patterns(list []string) []string {
	if len(list) == 0 {
		p.add("--patterns", "no pattern given")
	}
	for _, pattern := range list {
		switch {
		case pattern == "" || len(pattern) > 1024 || strings.ContainsRune(pattern, 0):
			p.add("--patterns", "%.50q is not 1 to 1024 bytes without NUL", pattern)
		case rsub.Reserved(pattern):
			p.add("--patterns", "%.50q: channels that start with __ are never delivered", pattern)
		}
	}
	return list
}

// broadcast checks that the channel's messages arrive at all; its form the engine
// checks.
func (p *problems) broadcast(name string, patterns []string) string {
	matches := func(pattern string) bool { return sseproto.MatchGlob(pattern, name) }
	switch {
	case name == "":
	case rsub.Reserved(name):
		p.add("--broadcast-channel", "%.70q: channels that start with __ are never delivered", name)
	case !slices.ContainsFunc(patterns, matches):
		p.add("--broadcast-channel", "%.70q matches none of --patterns", name)
	}
	return name
}

// prefix also becomes a part of the control keys and of the control channel.
func (p *problems) prefix(text string) string {
	if text == "" || len(text) > 200 || strings.ContainsFunc(text, isNotPrintableASCII) || strings.ContainsAny(text, "{}") {
		p.add("--stream-prefix", "%q is not 1 to 200 printable ASCII characters without spaces or braces", text)
	}
	return text
}

// defaultInbox is the default of --inbox, which without a history is none.
const defaultInbox = "sse:inbox"

// inbox reads a key of Redis that is none of ssed's own.
func (p *problems) inbox(text string, cfg *redisConfig) string {
	switch {
	case text == "" || text == "off":
		return ""
	case len(text) > 255 || strings.ContainsFunc(text, isNotPrintableASCII):
		p.add("--inbox", "%.50q is not 1 to 255 printable ASCII characters without spaces", text)
	case strings.HasPrefix(text, cfg.prefix) || strings.HasPrefix(text, "{"+cfg.prefix+"}"):
		p.add("--inbox", "%q begins like the keys of the history", text)
	case cfg.history == nil && text != defaultInbox:
		p.add("--inbox", "it takes --history=on: entries are kept until the history has them")
	case cfg.history == nil:
		return ""
	}
	return text
}

func (p *problems) instance(text string) string {
	if text == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		return fmt.Sprintf("%.60s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
	}
	if len(text) > 128 || strings.ContainsFunc(text, isNotPrintableASCII) {
		p.add("--instance", "%q is not 1 to 128 printable ASCII characters without spaces", text)
	}
	return text
}

func isNotPrintableASCII(r rune) bool { return r <= ' ' || r > '~' }

// Times after which a Redis that does not answer counts as lost: keep-alive
// probes and the deadline of a command. rueidis' own defaults sum up to 10 s.
const (
	redisKeepAlive    = 400 * time.Millisecond
	redisWriteTimeout = time.Second
)

// redis reads the URL; false: there is none, or it is unusable. The text of a
// URL is never echoed, nor the parser's error: both can hold the password.
func (p *problems) redis(text, path string) (rueidis.ClientOption, bool) {
	flag := "--redis-url"
	if path != "" {
		if text != "" {
			p.add("--redis-url-file", "only one of it and --redis-url can be given")
			return rueidis.ClientOption{}, false
		}
		flag = "--redis-url-file"
		content, err := os.ReadFile(path)
		if err != nil {
			p.add(flag, "%w", err)
			return rueidis.ClientOption{}, false
		}
		if text = strings.TrimSpace(string(content)); text == "" {
			p.add(flag, "%s is empty", path)
			return rueidis.ClientOption{}, false
		}
	}
	if text == "" {
		return rueidis.ClientOption{}, false
	}
	option, err := rueidis.ParseURL(text)
	if err != nil {
		p.add(flag, "not a URL such as redis://user:password@host:6379/0 "+
			"(not shown here, it may hold a password; special characters in a password must be percent-encoded)")
		return rueidis.ClientOption{}, false
	}
	if option.Password == hidden || option.Password == "" && option.Username == hidden {
		p.add(flag, "the password is left out, as in the output of ssed config: put it in")
		return rueidis.ClientOption{}, false
	}
	if option.AlwaysRESP2 {
		p.add(flag, "protocol=2 cannot be used: subscriptions and commands share a connection, which takes RESP3")
		return rueidis.ClientOption{}, false
	}
	option.Dialer.KeepAlive = redisKeepAlive
	if option.ConnWriteTimeout == 0 {
		option.ConnWriteTimeout = redisWriteTimeout
	}
	return option, true
}
