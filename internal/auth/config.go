package auth

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"ssed/internal/invalid"
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
	// Mode says who decides about tokens, if anybody.
	Mode Mode

	// One of the following four is the key of tokens. A secret is taken octet by
	// octet, without a line end at its end, and has at least 32.
	JWTSecretFile string
	JWTSecret     Secret
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

// WithDefaults returns c as New takes it: with the default of each field that is zero.
func (c Config) WithDefaults() Config {
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

// Validate reports every problem at once, each by the name of its field; a text that concerns
// a second field names that as Config.Field. It reads the files of keys, and opens no
// connection.
func (c Config) Validate() error {
	_, _, err := c.WithDefaults().check()
	return err
}

// check is Validate with the keys that it read, of clients and of publishers; nil
// without such. Defaults are set.
func (c Config) check() (clients, publishers *staticKeys, err error) {
	p := problems{invalid.Check{Package: "auth"}}
	switch c.Mode {
	case ModeNone, ModeJWT, ModeForward:
	default:
		p.Add("Mode", "%q is not one of jwt, forward", string(c.Mode))
	}
	c.checkTokens(&p)
	c.checkForward(&p)
	p.globs("ChannelsAllow", c.ChannelsAllow)
	p.globs("ChannelsDeny", c.ChannelsDeny)
	p.between("Timeout", c.Timeout, time.Millisecond, maxTimeout)
	p.between("CacheTTL", c.CacheTTL, 0, maxCacheTTL)
	p.between("JWTLeeway", c.JWTLeeway, 0, maxLeeway)
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		p.Add("Concurrency", "%d is not between 1 and %d", c.Concurrency, maxConcurrency)
	}
	clients, publishers = c.loadKeys(&p), c.loadPublishers(&p)
	return clients, publishers, p.Err()
}

// needsJWT is said of what has a meaning with tokens alone.
const needsJWT = "needs Config.Mode jwt"

// checkTokens also refuses fields of tokens without ModeJWT: who sets a secret
// and forgets the mode must not find the door open.
func (c *Config) checkTokens(p *problems) {
	sources := set(
		named{"JWTSecretFile", c.JWTSecretFile != ""},
		named{"JWTSecret", c.JWTSecret != ""},
		named{"JWTKeyFile", c.JWTKeyFile != ""},
		named{"JWKSURL", c.JWKSURL != ""},
	)
	if c.Mode != ModeJWT && c.Mode != ModeForward && c.URL == "" {
		p.If(c.RequireExp, "RequireExp", needsJWT+" or Config.URL")
	}
	if c.Mode != ModeJWT {
		rest := set(
			named{"JWTAudience", len(c.JWTAudience) > 0},
			named{"JWTIssuer", c.JWTIssuer != ""},
			named{"Cookie", c.Cookie != ""},
			named{"Query", c.Query != ""},
		)
		for _, field := range append(sources, rest...) {
			p.Add(field, needsJWT)
		}
		return
	}
	switch {
	case len(sources) == 0:
		p.Add("Mode", "jwt needs one of Config.JWTSecretFile, Config.JWTKeyFile, Config.JWKSURL")
	case len(sources) > 1:
		p.Add(sources[1], "cannot be combined with Config.%s", sources[0])
	}
	if c.JWKSURL != "" {
		p.url("JWKSURL", c.JWKSURL)
	}
	if slices.Contains(c.JWTAudience, "") {
		p.Add("JWTAudience", "one is empty")
	}
	if strings.ContainsFunc(c.Cookie, notCookieName) {
		p.Add("Cookie", "%q is not the name of a cookie", c.Cookie)
	}
	if sseproto.IsParam(c.Query) {
		p.Add("Query", "%q has another meaning", c.Query)
	}
}

func (c *Config) checkForward(p *problems) {
	switch {
	case c.Mode == ModeJWT && c.URL != "":
		p.Add("URL", "cannot be combined with Config.Mode jwt")
	case c.Mode == ModeForward && c.URL == "":
		p.Add("Mode", "forward needs Config.URL")
	case c.URL != "":
		p.url("URL", c.URL)
	}
}

func (c *Config) loadKeys(p *problems) *staticKeys {
	if c.Mode != ModeJWT {
		return nil
	}
	var keys *staticKeys
	var err error
	field := ""
	switch {
	case c.JWTSecretFile != "":
		field = "JWTSecretFile"
		keys, err = secretFromFile(c.JWTSecretFile)
	case c.JWTSecret != "":
		field = "JWTSecret"
		keys, err = secretKey([]byte(c.JWTSecret))
	case c.JWTKeyFile != "":
		field = "JWTKeyFile"
		keys, err = publicKeysFromFile(c.JWTKeyFile)
	}
	if err != nil {
		p.Add(field, "%w", err)
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
			p.Add("Publishers.SecretFile", "%w", err)
		}
	}
	if key != "" {
		if keys, err = publicKeysFromFile(key); err != nil {
			p.Add("Publishers.KeyFile", "%w", err)
		}
	}
	switch {
	case secret != "" && key != "":
		p.Add("Publishers.KeyFile", "cannot be combined with Config.Publishers.SecretFile")
	case secret == "" && key == "" && c.Mode != ModeJWT:
		p.Add("Publishers", "needs Config.Publishers.SecretFile or Config.Publishers.KeyFile, or Config.Mode jwt, whose keys serve then")
	}
	return keys
}

// named is a field and whether it is set.
type named struct {
	field string
	isSet bool
}

func set(fields ...named) []string {
	var names []string
	for _, f := range fields {
		if f.isSet {
			names = append(names, f.field)
		}
	}
	return names
}

// notCookieName tells what a token (RFC 6265 §4.1.1) has not.
func notCookieName(r rune) bool {
	return r <= ' ' || r >= 0x7F || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
}

// problems collects what is wrong.
type problems struct{ invalid.Check }

func (p *problems) between(field string, d, least, most time.Duration) {
	p.If(d < least || d > most, field, "%v is not between %v and %v", d, least, most)
}

func (p *problems) globs(field string, globs []string) {
	for _, glob := range globs {
		if glob == "" || len(glob) > maxGlobBytes || strings.IndexByte(glob, 0) >= 0 {
			p.Add(field, "%q: empty, with NUL, or longer than %d bytes", glob, maxGlobBytes)
		}
	}
}

// url does not repeat what it checks, which may have a password in it. Such a one is
// refused: command lines are in ps.
func (p *problems) url(field, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		p.Add(field, "not an http or https URL")
	case u.User != nil:
		p.Add(field, "has a user name or password in it")
	case u.Fragment != "":
		p.Add(field, "has a fragment")
	}
}
