package auth

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// quick is a pace for tests that wait for fetches; still for those that must not see
// more than the first.
var (
	quick = pace{pause: 5 * time.Millisecond, interval: time.Hour, retry: time.Hour, maxAge: time.Hour}
	still = pace{pause: time.Hour, interval: time.Hour, retry: time.Hour, maxAge: time.Hour}
)

// issuer serves a key set and can be told to do it badly.
type issuer struct {
	*httptest.Server
	fetches atomic.Int64
	answer  atomic.Pointer[http.HandlerFunc]
}

func newIssuer(t testing.TB, keys ...map[string]any) *issuer {
	t.Helper()
	s := &issuer{}
	s.publish(keys...)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuer) does(h http.HandlerFunc) { s.answer.Store(&h) }

func (s *issuer) says(status int, body string) {
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

func (s *issuer) publish(keys ...map[string]any) {
	if keys == nil {
		keys = []map[string]any{}
	}
	body, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	s.says(http.StatusOK, string(body))
}

func (s *issuer) config() Config { return Config{Mode: ModeJWT, JWKSURL: s.URL} }

// jwk returns a public key as it is in a key set, with more members.
func jwk(t testing.TB, kid string, public any, more ...any) map[string]any {
	t.Helper()
	key, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
	require.NoError(t, err)
	text, err := json.Marshal(key.Marshal())
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(text, &members))
	for i := 0; i < len(more); i += 2 {
		members[more[i].(string)] = more[i+1]
	}
	return members
}

func es256(t testing.TB, pair keyPair, header ...any) string {
	t.Helper()
	return signed(t, jwt.SigningMethodES256, pair.private, good(), header...)
}

func TestKeySetHoldsKeysOfAllKinds(t *testing.T) {
	s := newIssuer(t, jwk(t, "r", rsaPair().public), jwk(t, "e", ecPair().public, "alg", "ES256", "use", "sig"), jwk(t, "o", edPair().public))
	a := openAt(t, s.config(), quick)
	for _, header := range [][]any{{"kid", "r"}, {}} {
		admitted(t, a, withToken(t, signed(t, jwt.SigningMethodRS256, rsaPair().private, good(), header...)))
	}
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "e")))
	admitted(t, a, withToken(t, es256(t, ecPair())))
	admitted(t, a, withToken(t, signed(t, jwt.SigningMethodEdDSA, edPair().private, good(), "kid", "o")))
	require.EqualValues(t, 1, s.fetches.Load())

	// The key of another ID, or for another algorithm, does not do.
	refused(t, a, withToken(t, es256(t, ecPair(), "kid", "r")), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, es256(t, ecPair(), "kid", "o")), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, es256(t, newEC(elliptic.P256()), "kid", "e")), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, es256(t, newEC(elliptic.P256()))), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, es256(t, ecPair(), "kid", 7)), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, signed(t, jwt.SigningMethodHS256, pemOf(t, rsaPair().public), good(), "kid", "r")),
		http.StatusUnauthorized, RefusedSignature)
	require.EqualValues(t, 1, s.fetches.Load(), "none of this needed another fetch")
}

func TestUnfitKeysOfASetArePassedOver(t *testing.T) {
	secret := map[string]any{"kty": "oct", "kid": "s", "k": base64.RawURLEncoding.EncodeToString([]byte(testSecret))}
	small, p384 := newRSA(1024), newEC(elliptic.P384())
	s := newIssuer(t,
		secret,
		jwk(t, "small", small.public),
		jwk(t, "p384", p384.public),
		jwk(t, "enc", ecPair().public, "use", "enc"),
		jwk(t, "alg", rsaPair().public, "alg", "PS256"),
		map[string]any{"kty": "OKP", "crv": "Ed448", "kid": "future", "x": "AAAA"},
		map[string]any{"kty": 7},
		map[string]any{"kty": "EC", "kid": "off", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
		jwk(t, "cert", ecPair().public, "x5c", []string{"not a certificate"}),
		jwk(t, "good", edPair().public, "x5u", "http://127.0.0.1:1/never-asked"),
	)
	a := openAt(t, s.config(), quick)
	admitted(t, a, withToken(t, signed(t, jwt.SigningMethodEdDSA, edPair().private, good(), "kid", "good")))
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "cert")))
	f := func(token string) {
		t.Helper()
		refused(t, a, withToken(t, token), http.StatusUnauthorized, RefusedSignature)
	}
	f(hs256(t, good(), "kid", "s"))
	f(hs256(t, good()))
	f(signed(t, jwt.SigningMethodRS256, small.private, good(), "kid", "small"))
	f(signed(t, jwt.SigningMethodRS256, small.private, good()))
	f(signed(t, jwt.SigningMethodES384, p384.private, good(), "kid", "p384"))
	f(es256(t, ecPair(), "kid", "enc"))
	f(signed(t, jwt.SigningMethodRS256, rsaPair().private, good(), "kid", "alg"))
	f(signed(t, jwt.SigningMethodPS256, rsaPair().private, good(), "kid", "alg"))
}

func TestOldAndNewKeysAreTakenWhileTheyRotate(t *testing.T) {
	first, second := ecPair(), newEC(elliptic.P256())
	s := newIssuer(t, jwk(t, "1", first.public))
	a := openAt(t, s.config(), quick)
	admitted(t, a, withToken(t, es256(t, first, "kid", "1")))
	require.EqualValues(t, 1, s.fetches.Load())

	s.publish(jwk(t, "1", first.public), jwk(t, "2", second.public))
	admitted(t, a, withToken(t, es256(t, second, "kid", "2")))
	admitted(t, a, withToken(t, es256(t, first, "kid", "1")))
	require.EqualValues(t, 2, s.fetches.Load())

	s.publish(jwk(t, "2", second.public))
	refused(t, a, withToken(t, es256(t, first, "kid", "3")), http.StatusUnauthorized, RefusedSignature) // makes it fetch
	refused(t, a, withToken(t, es256(t, first, "kid", "1")), http.StatusUnauthorized, RefusedSignature)
	admitted(t, a, withToken(t, es256(t, second, "kid", "2")))

	s.publish()
	refused(t, a, withToken(t, es256(t, first, "kid", "3")), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, es256(t, second, "kid", "2")), http.StatusUnauthorized, RefusedSignature)
	refused(t, a, withToken(t, es256(t, second)), http.StatusUnauthorized, RefusedSignature)
}

func TestKeySetIsFetchedAtIntervals(t *testing.T) {
	second := newEC(elliptic.P256())
	s := newIssuer(t, jwk(t, "1", ecPair().public))
	a := openAt(t, s.config(), pace{pause: time.Millisecond, interval: time.Millisecond, retry: time.Millisecond, maxAge: time.Hour})
	admitted(t, a, withToken(t, es256(t, ecPair())))
	s.publish(jwk(t, "2", second.public))
	// Without a key ID nothing asks for a fetch.
	eventually(t, func() bool {
		_, err := a.Authorize(t.Context(), withToken(t, es256(t, second)))
		return err == nil
	})
}

func TestUnknownKeyIDsShareFetches(t *testing.T) {
	const strangers = 100
	key := jwk(t, "1", ecPair().public)
	s := newIssuer(t, key)
	a := openAt(t, s.config(), quick)
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "1")))
	asked, answer := make(chan struct{}, strangers), make(chan struct{})
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{key}})
	})
	stranger := withToken(t, es256(t, ecPair(), "kid", "made up"))
	var wg sync.WaitGroup
	come := func(n int) {
		for range n {
			wg.Go(func() { assert.Equal(t, http.StatusUnauthorized, outcome(t.Context(), a, stranger)) })
		}
	}
	come(1)
	<-asked
	come(strangers - 1)
	eventually(t, func() bool { return keySetOf(a).waiting.insideNow() == strangers })
	close(answer)
	wg.Wait()
	require.EqualValues(t, 3, s.fetches.Load(), "the first of all, that of the first stranger, and one for those who came meanwhile")
}

func TestKnownKeysDoNotWaitForUnknownOnes(t *testing.T) {
	s := newIssuer(t, jwk(t, "1", ecPair().public))
	a := openAt(t, s.config(), still)
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "1")))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	unknown := withToken(t, es256(t, ecPair(), "kid", "2"))
	wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, outcome(ctx, a, unknown)) })
	keys := keySetOf(a)
	eventually(t, func() bool { return keys.waiting.insideNow() == 1 })
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "1")))
	cancel()
	wg.Wait()
	require.EqualValues(t, 1, s.fetches.Load(), "the pause is not over")
}

func keySetOf(a *Access) *keySet { return a.chain.(*bearer).keys.(*keySet) }

// A client that finds no keys while the first fetch ends has what it wanted: it does not
// wait for the second.
func TestFirstFetchIsEnoughWheneverItEnds(t *testing.T) {
	s := newIssuer(t, jwk(t, "1", ecPair().public))
	a := openAt(t, s.config(), still)
	keys := keySetOf(a)
	eventually(t, func() bool { return keys.snapshot().ended == 1 })
	before := progress{begun: 1, changed: make(chan struct{})} // as it was
	require.False(t, keys.isFresh(&before))
	require.NoError(t, keys.refreshed(t.Context(), clientAddr, &before))
}

// Who makes up key IDs takes half of the places to wait, and no more: who has a new key
// finds one.
func TestWaitersForKeysAreBounded(t *testing.T) {
	s := newIssuer(t, jwk(t, "1", ecPair().public))
	a := openAt(t, s.config(), still)
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "1")))
	gate := keySetOf(a).waiting
	for gate.insideNow() < maxKeyWaiters/2 {
		_, err := gate.enter(t.Context(), clientAddr)
		require.NoError(t, err)
	}
	unknown := withToken(t, es256(t, ecPair(), "kid", "2"))
	refused(t, a, unknown, http.StatusServiceUnavailable, RefusedKeys)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	other := from(unknown, "198.51.100.1")
	wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, outcome(ctx, a, other)) })
	eventually(t, func() bool { return gate.insideNow() == maxKeyWaiters/2+1 })
	cancel()
	wg.Wait()
	require.Equal(t, maxKeyWaiters/2, gate.insideNow())
}

func (g *gate) insideNow() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

func TestWithoutKeysNobodyIsAdmitted(t *testing.T) {
	f := func(name string, bad http.HandlerFunc) {
		t.Run(name, func(t *testing.T) {
			s := newIssuer(t)
			s.does(bad)
			cfg := s.config()
			cfg.Timeout = 200 * time.Millisecond
			a := openAt(t, cfg, quick)
			d := refused(t, a, withToken(t, es256(t, ecPair(), "kid", "1")), http.StatusServiceUnavailable, RefusedKeys)
			require.NotEmpty(t, field(d, "Retry-After"))
			refused(t, a, withToken(t, es256(t, ecPair())), http.StatusServiceUnavailable, RefusedKeys)

			s.publish(jwk(t, "1", ecPair().public))
			eventually(t, func() bool {
				_, err := a.Authorize(t.Context(), withToken(t, es256(t, ecPair(), "kid", "1")))
				return err == nil
			})
			stats := a.Stats()
			require.Positive(t, stats.KeyFailures)
			require.Greater(t, stats.KeyFetches, stats.KeyFailures)
		})
	}
	says := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	valid, err := json.Marshal(map[string]any{"keys": []any{jwk(t, "1", ecPair().public)}})
	require.NoError(t, err)
	f("500", says(http.StatusInternalServerError, string(valid)))
	f("204", says(http.StatusNoContent, ""))
	f("html", says(http.StatusOK, "<html>"))
	f("no keys", says(http.StatusOK, `{"error":"x"}`))
	f("null", says(http.StatusOK, `null`))
	f("huge", says(http.StatusOK, strings.Repeat(" ", maxKeySetBytes)+string(valid)))
	f("redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	f("slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	f("slow body", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(valid[:len(valid)/2])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	f("cut", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
}

func TestIssuerThatIsMissingAtTheStartMeansRetryLater(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	require.NoError(t, listener.Close())
	a := openAt(t, Config{Mode: ModeJWT, JWKSURL: "http://" + addr}, quick)
	refused(t, a, withToken(t, es256(t, ecPair(), "kid", "1")), http.StatusServiceUnavailable, RefusedKeys)
}

func TestKeysServeOnThroughAnOutageAndNotForEver(t *testing.T) {
	s := newIssuer(t, jwk(t, "1", ecPair().public))
	a := openAt(t, s.config(), quick)
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "1")))
	s.says(http.StatusBadGateway, "")
	refused(t, a, withToken(t, es256(t, ecPair(), "kid", "2")), http.StatusServiceUnavailable, RefusedKeys)
	admitted(t, a, withToken(t, es256(t, ecPair(), "kid", "1")))

	keys := keySetOf(a)
	keys.mu.Lock()
	keys.progress.loaded = time.Now().Add(-quick.maxAge)
	keys.mu.Unlock()
	refused(t, a, withToken(t, es256(t, ecPair(), "kid", "1")), http.StatusServiceUnavailable, RefusedKeys)
}

func TestRequestsDoNotWaitWhileKeyFetchesFail(t *testing.T) {
	s := newIssuer(t)
	s.says(http.StatusBadGateway, "")
	a := openAt(t, s.config(), still) // would wait for an hour
	for range 100 {
		refused(t, a, withToken(t, es256(t, ecPair(), "kid", "1")), http.StatusServiceUnavailable, RefusedKeys)
	}
	require.EqualValues(t, 1, s.fetches.Load())
}

func TestCloseEndsAFetchAndThoseWhoWait(t *testing.T) {
	s := newIssuer(t)
	asked := make(chan struct{})
	s.does(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	cfg := s.config()
	cfg.Timeout = maxTimeout
	a := openAt(t, cfg, still)
	var wg sync.WaitGroup
	r := withToken(t, es256(t, ecPair(), "kid", "1"))
	wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, outcome(t.Context(), a, r)) })
	<-asked
	eventually(t, func() bool { return keySetOf(a).waiting.insideNow() == 1 })
	a.Close()
	wg.Wait()
	a.Close()
}

func TestClientThatLeavesDoesNotEndTheFetchOfOthers(t *testing.T) {
	s := newIssuer(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	key := jwk(t, "1", ecPair().public)
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{key}})
	})
	a := openAt(t, s.config(), still)
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	r := withToken(t, es256(t, ecPair(), "kid", "1"))
	wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, outcome(ctx, a, r)) })
	wg.Go(func() { assert.Equal(t, http.StatusOK, outcome(t.Context(), a, r)) })
	<-asked
	eventually(t, func() bool { return keySetOf(a).waiting.insideNow() == 2 })
	leave()
	eventually(t, func() bool { return keySetOf(a).waiting.insideNow() == 1 })
	close(answer)
	wg.Wait()
}

func TestKeysInTheClearAreWarnedOf(t *testing.T) {
	f := func(url string, warned bool) {
		t.Helper()
		var log safeBuffer
		warnPlain(slog.New(slog.NewTextHandler(&log, nil)), url)
		require.Equal(t, warned, strings.Contains(log.String(), "level=WARN"), url)
	}
	f("http://id.example.com/jwks", true)
	f("http://10.0.0.1/jwks", true)
	f("http://127.0.0.1:8080/jwks", false)
	f("http://[::1]/jwks", false)
	f("http://localhost/jwks", false)
	f("https://id.example.com/jwks", false)
}
