package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

var (
	errKeysUnavailable = errors.New("auth: keys are not available")
	errNotKeySet       = errors.New("not a JSON Web Key Set")
	errTooLarge        = fmt.Errorf("larger than %d bytes", maxKeySetBytes)
)

const (
	// maxKeySetBytes: real sets have 1 to 20 KiB, those with certificate chains more.
	maxKeySetBytes = 256 << 10
	// maxKeyWaiters bounds those who wait for a fetch, half of them of one address; the
	// rest is refused at once.
	maxKeyWaiters = 4096
)

// pace says when a key set is fetched.
type pace struct {
	pause    time.Duration // between two attempts, whoever asks for them
	interval time.Duration // after a success
	retry    time.Duration // after a failure
	maxAge   time.Duration // how long keys serve without a success
}

// keyPace: an issuer shows a new key some time before it signs with it, and a
// revoked one is gone after five minutes. Two seconds are what a client with a new
// key waits at worst, and what a flood of made-up key IDs costs the issuer.
var keyPace = pace{pause: 2 * time.Second, interval: 5 * time.Minute, retry: 10 * time.Second, maxAge: time.Hour}

// keySet is a JSON Web Key Set (RFC 7517 §5) at a URL. One goroutine fetches it,
// again and again and when asked to.
type keySet struct {
	// fixed after construction
	url      string
	client   *http.Client
	timeout  time.Duration
	pace     pace
	outage   outage
	counters *counters
	store    *jwkset.MemoryJWKSet
	find     keyfunc.Keyfunc
	cancel   context.CancelFunc
	done     chan struct{} // closed when the goroutine has returned
	wake     chan struct{} // holds one: somebody waits for the next attempt

	waiting *gate // for a fetch

	mu       sync.Mutex
	progress progress // guarded by mu
}

// progress tells of the attempts, which are counted from one.
type progress struct {
	begun, ended uint64
	ok           bool          // the last one to end was a success
	loaded       time.Time     // of the last success; zero: none
	earliest     time.Time     // no attempt begins before
	changed      chan struct{} // closed when the next one ends
}

func newKeySet(cfg *Config, pace pace, counters *counters) *keySet {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keySet{
		url:      cfg.JWKSURL,
		client:   newClient(cfg, 1),
		timeout:  cfg.Timeout,
		pace:     pace,
		outage:   outage{logger: cfg.Logger, what: "fetching the key set"},
		counters: counters,
		store:    jwkset.NewMemoryStorage(),
		waiting:  newGate(maxKeyWaiters, 0),
		cancel:   cancel,
		done:     make(chan struct{}),
		wake:     make(chan struct{}, 1),
		progress: progress{changed: make(chan struct{})},
	}
	// The only error is that of a missing storage.
	k.find, _ = keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: k.store})
	go k.run(ctx)
	return k
}

func (k *keySet) close() {
	k.cancel()
	<-k.done
	k.client.CloseIdleConnections()
}

// algorithms are those of public keys: a secret has no place in a public set.
func (k *keySet) algorithms() []string { return []string{algRS256, algES256, algEdDSA} }

func (k *keySet) lookup(ctx context.Context, client netip.Addr, token *jwt.Token) (any, error) {
	seen := k.snapshot() // before the keys: what is fetched from now on counts as newer
	if !k.isFresh(&seen) {
		if err := k.refreshed(ctx, client, &seen); err != nil {
			return nil, err
		}
		seen = k.snapshot()
	}
	key, err := k.find.KeyfuncCtx(ctx)(token)
	if !errors.Is(err, jwkset.ErrKeyNotFound) {
		return key, err
	}
	if err := k.refreshed(ctx, client, &seen); err != nil {
		return nil, err
	}
	return k.find.KeyfuncCtx(ctx)(token)
}

// isFresh tells whether the keys at hand may be used.
func (k *keySet) isFresh(p *progress) bool {
	return !p.loaded.IsZero() && time.Since(p.loaded) < k.pace.maxAge
}

func (k *keySet) snapshot() progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.progress
}

// refreshed waits for an attempt that began after what was seen, one that may have been
// answered earlier proves nothing; the first one of all does. While attempts fail it
// does not wait for the next: too many would.
func (k *keySet) refreshed(ctx context.Context, client netip.Addr, seen *progress) error {
	leave, err := k.waiting.enter(ctx, client)
	if err != nil {
		return errKeysUnavailable
	}
	defer leave()
	wanted := seen.begun + 1
	if seen.ended == 0 {
		wanted = 1
	}
	p := k.snapshot()
	for p.ended < wanted {
		resting := p.begun == p.ended && time.Now().Before(p.earliest)
		if p.ended > 0 && !p.ok && resting {
			return errKeysUnavailable
		}
		select {
		case k.wake <- struct{}{}:
		default:
		}
		select {
		case <-p.changed:
		case <-ctx.Done():
			return errKeysUnavailable
		case <-k.done:
			return errKeysUnavailable
		}
		p = k.snapshot()
	}
	if !p.ok {
		return errKeysUnavailable
	}
	return nil
}

// run is the goroutine.
func (k *keySet) run(ctx context.Context) {
	defer close(k.done)
	for {
		k.mu.Lock()
		k.progress.begun++
		k.mu.Unlock()
		err := k.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		k.ended(err)
		if !k.rest(ctx, err) {
			return
		}
	}
}

// ended publishes how an attempt went.
func (k *keySet) ended(err error) {
	k.counters.keyFetches.Add(1)
	if err != nil {
		k.counters.keyFailures.Add(1)
	}
	k.outage.note(err)
	k.mu.Lock()
	defer k.mu.Unlock()
	p := &k.progress
	p.ended++
	p.ok = err == nil
	now := time.Now()
	if p.ok {
		p.loaded = now
	}
	p.earliest = now.Add(k.pace.pause)
	// Whom this attempt was not enough for asks again; the others have what they wanted.
	select {
	case <-k.wake:
	default:
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// rest waits until the next attempt is due, and reports false when there is none.
func (k *keySet) rest(ctx context.Context, failure error) bool {
	pause := time.NewTimer(k.pace.pause)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-pause.C:
	}
	due := k.pace.interval
	if failure != nil {
		due = k.pace.retry
	}
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-k.wake:
	case <-timer.C:
	}
	return true
}

// fetch replaces the keys. A set without any is taken at its word: all are revoked.
func (k *keySet) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return errProtocol // Validate has parsed the URL
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return plainError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
	switch {
	case err != nil:
		return plainError(err)
	case len(body) > maxKeySetBytes:
		return errTooLarge
	}
	keys, err := parseKeySet(body)
	if err != nil {
		return err
	}
	return k.store.KeyReplaceAll(ctx, keys)
}

// parseKeySet returns the usable keys; one that is not is passed over (RFC 7517 §5).
func parseKeySet(body []byte) ([]jwkset.JWK, error) {
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil || set.Keys == nil {
		return nil, errNotKeySet
	}
	keys := make([]jwkset.JWK, 0, len(*set.Keys))
	for _, raw := range *set.Keys {
		if key, ok := parseKey(raw); ok {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// parseKey reads a public key for one of the algorithms. Certificates are left out:
// what makes the key trusted is where the set came from.
func parseKey(raw json.RawMessage) (jwkset.JWK, bool) {
	var fields jwkset.JWKMarshal
	if json.Unmarshal(raw, &fields) != nil {
		return jwkset.JWK{}, false
	}
	if fields.USE != "" && fields.USE != jwkset.UseSig {
		return jwkset.JWK{}, false
	}
	fields.X5U, fields.X5C, fields.X5T, fields.X5TS256 = "", nil, "", ""
	// Without Private, private keys become public ones and secrets are refused.
	key, err := jwkset.NewJWKFromMarshal(fields, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return jwkset.JWK{}, false
	}
	algorithm, err := algorithmOf(key.Key())
	if err != nil || fields.ALG != "" && fields.ALG.String() != algorithm {
		return jwkset.JWK{}, false
	}
	return key, true
}
