package main

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"ssed"
	"ssed/internal/admin"
	"ssed/internal/auth"
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
