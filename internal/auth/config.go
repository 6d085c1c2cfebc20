package auth

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"ssed/sseproto"
)

// Mode is how clients are authorised.
type Mode string

// The modes.
const (
	// ModeNone asks no one; with Config.URL set it is ModeForward.
	ModeNone    Mode = ""
	ModeJWT     Mode = "jwt"
	ModeForward Mode = "forward"
)

// Secret is a string that is not printed.
type Secret string

const redacted = "[redacted]"

// Format implements fmt.Formatter, for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler, which JSON and slog use.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Config says who may have what. The zero value lets everyone have everything.
type Config struct {
	// Mode is --auth.
	Mode Mode

	// One of the following four is the key of tokens. A secret is taken octet by
	// octet, without a line end at its end, and has at least 32.
	JWTSecretFile string
	JWTSecret     Secret // $SSED_AUTH_JWT_SECRET; there is no flag, ps would show it
	JWTKeyFile    string // PEM: public keys or certificates, one or several
	JWKSURL       string

	// JWTAudience is what "aud" must have one of. Empty: not checked.
	JWTAudience []string
	// JWTIssuer is what "iss" must be. Empty: not checked.
	JWTIssuer string
	// JWTLeeway is how far the clock of the issuer may be off. Default 5 s; negative: none.
	JWTLeeway time.Duration
	// Cookie is the name of the cookie that may have the token. Empty: none may.
	Cookie string
	// Query is the name of the query parameter that may have the token. Empty: none
	// may, and none should: URLs end up in the logs of proxies.
	Query string

	// URL is the service of forward auth.
	URL string
	// Timeout bounds one decision of the service, waiting included, and one fetch of
	// a key set. Default 2 s.
	Timeout time.Duration
	// Concurrency bounds the requests to the service. Default 64. Sixteen times as
	// many wait, the rest gets 503.
	Concurrency int
	// CacheTTL is how long a grant of the service is good for the same request; a denial
	// for a second of it. Default 5 s; negative: nothing is remembered.
	CacheTTL time.Duration

	// RequireExp refuses tokens without exp, and grants of the service without an end.
	RequireExp bool
	// ProxyFromEnvironment sends the requests to URL and JWKSURL through the proxy that
	// HTTP_PROXY, HTTPS_PROXY and NO_PROXY name. Unset, they go straight there.
	ProxyFromEnvironment bool

	// Publishers lets holders of tokens publish, see Access.Publishers. Nil: nobody.
	Publishers *PublisherKeys

	// ChannelsAllow are globs, one of which must match; empty: any channel.
	ChannelsAllow []string
	// ChannelsDeny are globs, none of which may match.
	ChannelsDeny []string

	// Logger gets failures of the service or the key set, throttled. Default slog.Default().
	Logger *slog.Logger
}

// Bounds of Config, against slips of a unit. Globs match names of at most 255 bytes.
const (
	maxTimeout     = time.Minute
	maxLeeway      = 5 * time.Minute
	maxCacheTTL    = time.Hour
	maxConcurrency = 10_000
	maxGlobBytes   = 1024
)

func (c Config) withDefaults() Config {
	if c.Mode == ModeNone && c.URL != "" {
		c.Mode = ModeForward
	}
	c.JWTLeeway = cmp.Or(c.JWTLeeway, 5*time.Second)
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.CacheTTL = cmp.Or(c.CacheTTL, 5*time.Second)
	c.JWTLeeway, c.CacheTTL = max(c.JWTLeeway, 0), max(c.CacheTTL, 0)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Enabled tells whether anything is restricted. An Access of a Config that restricts
// nothing grants everything.
func (c Config) Enabled() bool {
	return c.Mode != ModeNone || c.URL != "" || len(c.ChannelsAllow)+len(c.ChannelsDeny) > 0
}

// Validate reports every problem at once, each by the name of its flag. It reads the
// files of keys, and opens no connection.
func (c Config) Validate() error {
	_, _, err := c.withDefaults().check()
	return err
}

// check is Validate with the keys that it read, of clients and of publishers; nil
// without such. Defaults are set.
func (c Config) check() (clients, publishers *staticKeys, err error) {
	var p problems
	switch c.Mode {
	case ModeNone, ModeJWT, ModeForward:
	default:
		p.add("--auth", "%q is not one of jwt, forward", string(c.Mode))
	}
	c.checkTokens(&p)
	c.checkForward(&p)
	p.globs("--channels-allow", c.ChannelsAllow)
	p.globs("--channels-deny", c.ChannelsDeny)
	p.between("--auth-timeout", c.Timeout, time.Millisecond, maxTimeout)
	p.between("--auth-cache-ttl", c.CacheTTL, 0, maxCacheTTL)
	p.between("--auth-jwt-leeway", c.JWTLeeway, 0, maxLeeway)
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		p.add("--auth-concurrency", "%d is not between 1 and %d", c.Concurrency, maxConcurrency)
	}
	clients, publishers = c.loadKeys(&p), c.loadPublishers(&p)
	return clients, publishers, errors.Join(p...)
}

// checkTokens also refuses flags of tokens without --auth jwt: who sets a secret
// and forgets the mode must not find the door open.
func (c *Config) checkTokens(p *problems) {
	sources := set(
		named{"--auth-jwt-secret-file", c.JWTSecretFile != ""},
		named{"$SSED_AUTH_JWT_SECRET", c.JWTSecret != ""},
		named{"--auth-jwt-key-file", c.JWTKeyFile != ""},
		named{"--auth-jwks-url", c.JWKSURL != ""},
	)
	if c.Mode != ModeJWT && c.Mode != ModeForward && c.URL == "" {
		for _, flag := range set(named{"--auth-require-exp", c.RequireExp}) {
			p.add(flag, "needs --auth jwt or --auth-url")
		}
	}
	if c.Mode != ModeJWT {
		rest := set(
			named{"--auth-jwt-audience", len(c.JWTAudience) > 0},
			named{"--auth-jwt-issuer", c.JWTIssuer != ""},
			named{"--auth-cookie", c.Cookie != ""},
			named{"--auth-query", c.Query != ""},
		)
		for _, flag := range append(sources, rest...) {
			p.add(flag, "needs --auth jwt")
		}
		return
	}
	switch {
	case len(sources) == 0:
		p.add("--auth", "jwt needs one of --auth-jwt-secret-file, --auth-jwt-key-file, --auth-jwks-url")
	case len(sources) > 1:
		p.add(sources[1], "cannot be combined with %s", sources[0])
	}
	if c.JWKSURL != "" {
		p.url("--auth-jwks-url", c.JWKSURL)
	}
	if slices.Contains(c.JWTAudience, "") {
		p.add("--auth-jwt-audience", "one is empty")
	}
	if strings.ContainsFunc(c.Cookie, notCookieName) {
		p.add("--auth-cookie", "%q is not the name of a cookie", c.Cookie)
	}
	if sseproto.IsParam(c.Query) {
		p.add("--auth-query", "%q has another meaning", c.Query)
	}
}

func (c *Config) checkForward(p *problems) {
	switch {
	case c.Mode == ModeJWT && c.URL != "":
		p.add("--auth-url", "cannot be combined with --auth jwt")
	case c.Mode == ModeForward && c.URL == "":
		p.add("--auth", "forward needs --auth-url")
	case c.URL != "":
		p.url("--auth-url", c.URL)
	}
}

func (c *Config) loadKeys(p *problems) *staticKeys {
	if c.Mode != ModeJWT {
		return nil
	}
	var keys *staticKeys
	var err error
	flag := ""
	switch {
	case c.JWTSecretFile != "":
		flag = "--auth-jwt-secret-file"
		keys, err = secretFromFile(c.JWTSecretFile)
	case c.JWTSecret != "":
		flag = "$SSED_AUTH_JWT_SECRET"
		keys, err = secretKey([]byte(c.JWTSecret))
	case c.JWTKeyFile != "":
		flag = "--auth-jwt-key-file"
		keys, err = publicKeysFromFile(c.JWTKeyFile)
	}
	if err != nil {
		p.add(flag, "%w", err)
	}
	return keys
}

// loadPublishers reads the keys of publishers that are not those of clients.
func (c *Config) loadPublishers(p *problems) (keys *staticKeys) {
	if c.Publishers == nil {
		return nil
	}
	secret, key := c.Publishers.SecretFile, c.Publishers.KeyFile
	var err error
	if secret != "" {
		if keys, err = secretFromFile(secret); err != nil {
			p.add("--publish-jwt-secret-file", "%w", err)
		}
	}
	if key != "" {
		if keys, err = publicKeysFromFile(key); err != nil {
			p.add("--publish-jwt-key-file", "%w", err)
		}
	}
	switch {
	case secret != "" && key != "":
		p.add("--publish-jwt-key-file", "cannot be combined with --publish-jwt-secret-file")
	case secret == "" && key == "" && c.Mode != ModeJWT:
		p.add("--publish-listen", "needs --publish-jwt-secret-file or --publish-jwt-key-file, or --auth jwt, whose keys serve then")
	}
	return keys
}

// named is a flag and whether it is set.
type named struct {
	flag  string
	isSet bool
}

func set(flags ...named) []string {
	var names []string
	for _, f := range flags {
		if f.isSet {
			names = append(names, f.flag)
		}
	}
	return names
}

// notCookieName tells what a token (RFC 6265 §4.1.1) has not.
func notCookieName(r rune) bool {
	return r <= ' ' || r >= 0x7F || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
}

// problems collects what is wrong.
type problems []error

func (p *problems) add(flag, format string, args ...any) {
	*p = append(*p, fmt.Errorf(flag+": "+format, args...))
}

func (p *problems) between(flag string, d, least, most time.Duration) {
	if d < least || d > most {
		p.add(flag, "%v is not between %v and %v", d, least, most)
	}
}

func (p *problems) globs(flag string, globs []string) {
	for _, glob := range globs {
		if glob == "" || len(glob) > maxGlobBytes || strings.IndexByte(glob, 0) >= 0 {
			p.add(flag, "%q: empty, with NUL, or longer than %d bytes", glob, maxGlobBytes)
		}
	}
}

// url does not repeat what it checks, which may have a password in it. Such a one is
// refused: the flag is in ps.
func (p *problems) url(flag, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		p.add(flag, "not an http or https URL")
	case u.User != nil:
		p.add(flag, "has a user name or password in it")
	case u.Fragment != "":
		p.add(flag, "has a fragment")
	}
}
