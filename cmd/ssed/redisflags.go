package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
)

// redisFlags are those that say how to reach Redis.
type redisFlags struct {
	url, urlFile  string
	ca, cert, key string // paths
}

func (f *flags) redis() redisFlags {
	return redisFlags{f.RedisURL, f.RedisURLFile, f.RedisCA, f.RedisCert, f.RedisKey}
}

func (c *pubCommand) redis() redisFlags {
	return redisFlags{c.RedisURL, c.RedisURLFile, c.RedisCA, c.RedisCert, c.RedisKey}
}

// optionalRedis is redis with nil for none.
func (p *problems) optionalRedis(f redisFlags) *rueidis.ClientOption {
	if option, ok := p.redis(f); ok {
		return &option
	}
	return nil
}

// redis reads the flags; false: there is no URL, or it is unusable.
func (p *problems) redis(f redisFlags) (rueidis.ClientOption, bool) {
	before := len(*p)
	flag, text := p.redisURL(f.url, f.urlFile)
	if text == "" {
		return rueidis.ClientOption{}, false
	}
	option, err := rueidis.ParseURL(text)
	switch {
	case err != nil || isTornURL(text):
		p.add(flag, "not a URL such as redis://user:password@host:6379/0 "+
			"(not shown here, it may hold a password; special characters in a password must be percent-encoded)")
		return rueidis.ClientOption{}, false
	case hasForeignParam(text):
		p.add(flag, "the query has a parameter that is none of %s (not shown here, it may hold a password; that goes before the host)", strings.Join(redisParams, ", "))
		return rueidis.ClientOption{}, false
	case option.Password == hidden || option.Password == "" && option.Username == hidden:
		p.add(flag, "the password is left out, as in the output of ssed config: put it in")
	}
	for _, err := range redisconn.Check(option) {
		p.add(flag, "%w", err)
	}
	p.redisTLS(&option, f)
	return option, len(*p) == before
}

// redisURL returns the URL and the flag that gave it.
func (p *problems) redisURL(text, path string) (flag, url string) {
	if path == "" {
		return "--redis-url", text
	}
	const fileFlag = "--redis-url-file"
	if text != "" {
		p.add(fileFlag, "only one of it and --redis-url can be given")
		return fileFlag, ""
	}
	content, err := os.ReadFile(path)
	if err != nil {
		p.add(fileFlag, "%w", err)
		return fileFlag, ""
	}
	if text = strings.TrimSpace(string(content)); text == "" {
		p.add(fileFlag, "%s is empty", path)
	}
	return fileFlag, text
}

// isTornURL tells a URL of Redis that a character of the password has torn apart: with
// an unescaped #, / or ? a part of the password would be taken for the host, and shown in
// the log and to DNS.
func isTornURL(text string) bool {
	u, err := url.Parse(text)
	return err != nil || strings.Contains(text, "#") || hasStrayAt(*u)
}

// redisParams are the parameters of a URL of Redis that count.
var redisParams = []string{"addr", "master_set", "skip_verify", "client_name", "dial_timeout", "write_timeout", "db", "protocol", "client_cache", "max_retries"}

// hasForeignParam tells a URL of Redis with another parameter. Some programs take the
// password as one. Here it would count for nothing, and be shown.
func hasForeignParam(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	query, err := url.ParseQuery(u.RawQuery) // of what it cannot read Query has a part
	for name := range query {
		if !slices.Contains(redisParams, name) {
			return true
		}
	}
	return err != nil
}

// redisTLS adds the certificates. The URL says whether there is TLS at all.
func (p *problems) redisTLS(option *rueidis.ClientOption, f redisFlags) {
	config := option.TLSConfig
	given := map[string]string{"--redis-ca": f.ca, "--redis-cert": f.cert, "--redis-key": f.key}
	if config == nil {
		for flag, path := range given {
			if path != "" {
				p.add(flag, "the URL of Redis does not begin with rediss://: nothing would be encrypted")
			}
		}
		return
	}
	// Of each address: servers that Sentinel names have other names than the Sentinels.
	config.ServerName = ""
	option.Sentinel.TLSConfig = config // or they would be asked in clear text
	if f.ca != "" {
		config.RootCAs = p.certificates("--redis-ca", f.ca)
		if config.InsecureSkipVerify {
			p.add("--redis-ca", "with skip_verify=true in the URL nobody looks at it")
		}
	}
	switch {
	case f.cert == "" && f.key == "":
	case f.cert == "" || f.key == "":
		p.add("--redis-cert", "it and --redis-key belong together")
	default:
		// Read for each connection: a certificate can be renewed while ssed runs.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.cert, f.key)
			return &pair, err
		}
		if _, err := config.GetClientCertificate(nil); err != nil {
			p.add("--redis-cert", "%w", err)
		}
	}
}

// certificates reads a file of PEM.
func (p *problems) certificates(flag, path string) *x509.CertPool {
	text, err := os.ReadFile(path)
	pool := x509.NewCertPool()
	switch {
	case err != nil:
		p.add(flag, "%w", err)
	case !pool.AppendCertsFromPEM(text):
		p.add(flag, "%s holds no certificate in PEM", path)
	}
	return pool
}
