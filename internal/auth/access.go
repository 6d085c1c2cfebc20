package auth

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"ssed/engine"
)

// Access is an engine.Authorizer. It is safe for concurrent use.
type Access struct {
	chain    engine.Authorizer
	counters counters
	close    func()
	forget   func()

	publishers *Publishers // nil: nobody
}

// New checks cfg and makes its Access. With a URL of keys a goroutine fetches them
// until Close; a key set that cannot be had is not an error, it refuses clients.
func New(cfg Config) (*Access, error) { return newAccess(cfg, keyPace) }

func newAccess(cfg Config, pace pace) (*Access, error) {
	cfg = cfg.WithDefaults()
	static, own, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	a := &Access{close: func() {}, forget: func() {}}
	var keys keySource // of clients' tokens
	switch {
	case cfg.Mode == ModeForward:
		f := newForward(&cfg, &a.counters)
		a.chain, a.close, a.forget = f, f.close, f.forget
	case cfg.Mode == ModeJWT && static != nil:
		keys = static
	case cfg.Mode == ModeJWT:
		warnPlain(cfg.Logger, cfg.JWKSURL)
		set := newKeySet(&cfg, pace, &a.counters)
		keys, a.close = set, set.close
	default:
		a.chain = everyone{}
	}
	if keys != nil {
		a.chain = newBearer(&cfg, keys, &a.counters)
	}
	if cfg.Publishers != nil {
		if own != nil {
			keys = own
		}
		a.publishers = newPublishers(&cfg, keys)
	}
	if len(cfg.ChannelsAllow)+len(cfg.ChannelsDeny) > 0 {
		a.chain = &lists{allow: cfg.ChannelsAllow, deny: cfg.ChannelsDeny, next: a.chain, counters: &a.counters}
	}
	return a, nil
}

// Authorize implements engine.Authorizer. All its errors are *engine.Denial.
func (a *Access) Authorize(ctx context.Context, r *engine.AuthRequest) (engine.Grant, error) {
	grant, err := a.chain.Authorize(ctx, r)
	if err != nil {
		return engine.Grant{}, err
	}
	a.counters.granted.Add(1)
	grant.Channels = slices.Clone(grant.Channels) // r.Channels is the caller's
	return grant, nil
}

// Stats returns a snapshot of the counters.
func (a *Access) Stats() Stats { return a.counters.snapshot() }

// Forget drops what the service has said, so that it is asked again: somebody's access
// was withdrawn.
func (a *Access) Forget() { a.forget() }

// Close ends what runs in the background and waits for it. Who waits for keys is
// refused; Authorize may still be called and serves with what there is.
func (a *Access) Close() { a.close() }

// everyone grants what is asked for.
type everyone struct{}

func (everyone) Authorize(_ context.Context, r *engine.AuthRequest) (engine.Grant, error) {
	return engine.Grant{Channels: r.Channels}, nil
}

// warnPlain tells of keys that come over the network in the clear. Not refused: the
// network may be one that is encrypted below.
func warnPlain(logger *slog.Logger, keysURL string) {
	u, err := url.Parse(keysURL)
	if err != nil || u.Scheme != "http" || u.Hostname() == "localhost" {
		return
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && addr.IsLoopback() {
		return
	}
	logger.Warn("auth: the URL of the key set is not https: whoever changes its answer can open any stream")
}

// newClient returns the client for the service or the key set. It follows no
// redirect: neither a client's credentials nor the trust in keys go where a
// third party points. Nor does it take HTTP_PROXY and the like from the environment,
// which would see both, unless it was told to.
func newClient(cfg *Config, connections int) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if !cfg.ProxyFromEnvironment {
		transport.Proxy = nil
	}
	transport.MaxIdleConns = connections
	transport.MaxIdleConnsPerHost = connections
	transport.MaxResponseHeaderBytes = 32 << 10
	transport.DisableCompression = true // bodies are small, and one that unpacks to a large one is not worth the risk
	transport.IdleConnTimeout = 30 * time.Second
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
