package auth

import (
	"crypto/elliptic"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"ssed/engine"
)

// withSecret is an Access for HS256.
func withSecret(t testing.TB, change func(*Config)) *Access {
	t.Helper()
	cfg := Config{Mode: ModeJWT, JWTSecret: testSecret}
	if change != nil {
		change(&cfg)
	}
	return open(t, cfg)
}

func hs256(t testing.TB, c jwt.MapClaims, header ...any) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, []byte(testSecret), c, header...)
}

// family is an algorithm with a Config that accepts its tokens.
type family struct {
	method  jwt.SigningMethod
	private any
	config  Config
}

func families(t testing.TB) []family {
	ofPEM := func(method jwt.SigningMethod, pair keyPair) family {
		return family{method, pair.private, Config{Mode: ModeJWT, JWTKeyFile: fileOf(t, pemOf(t, pair.public))}}
	}
	return []family{
		{jwt.SigningMethodHS256, []byte(testSecret), Config{Mode: ModeJWT, JWTSecretFile: fileOf(t, []byte(testSecret+"\n"))}},
		ofPEM(jwt.SigningMethodRS256, rsaPair()),
		ofPEM(jwt.SigningMethodES256, ecPair()),
		ofPEM(jwt.SigningMethodEdDSA, edPair()),
	}
}

func TestEachKeyTakesItsOwnAlgorithmAlone(t *testing.T) {
	all := families(t)
	for _, receiver := range all {
		t.Run(receiver.method.Alg(), func(t *testing.T) {
			a := open(t, receiver.config)
			for _, sender := range all {
				r := withToken(t, signed(t, sender.method, sender.private, good()))
				if sender.method == receiver.method {
					grant := admitted(t, a, r)
					require.Equal(t, []string{"news:sport", "user:42"}, grant.Channels)
					continue
				}
				refused(t, a, r, http.StatusUnauthorized, RefusedSignature)
			}
		})
	}
}

func TestOtherAlgorithmsOfTheSameKeyAreRefused(t *testing.T) {
	f := func(cfg Config, method jwt.SigningMethod, key any) {
		t.Helper()
		a := open(t, cfg)
		refused(t, a, withToken(t, signed(t, method, key, good())), http.StatusUnauthorized, RefusedSignature)
	}
	all := families(t)
	f(all[0].config, jwt.SigningMethodHS384, []byte(testSecret))
	f(all[0].config, jwt.SigningMethodHS512, []byte(testSecret))
	f(all[1].config, jwt.SigningMethodRS512, rsaPair().private)
	f(all[1].config, jwt.SigningMethodPS256, rsaPair().private)
	for _, one := range all {
		f(one.config, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType)
	}
}

// The public key of an RSA pair is known to everyone. If it could be the secret of
// HS256, everyone could sign.
func TestPublicKeyIsNoSecret(t *testing.T) {
	public := pemOf(t, rsaPair().public)
	a := open(t, Config{Mode: ModeJWT, JWTKeyFile: fileOf(t, public)})
	for _, secret := range [][]byte{public, []byte(strings.TrimSpace(string(public))), pemBytes(public)} {
		refused(t, a, withToken(t, signed(t, jwt.SigningMethodHS256, secret, good())), http.StatusUnauthorized, RefusedSignature)
	}
}

func pemBytes(text []byte) []byte {
	block, _ := pem.Decode(text)
	return block.Bytes
}

func TestAnotherKeyOfTheSameKindIsRefused(t *testing.T) {
	a := open(t, Config{Mode: ModeJWT, JWTKeyFile: fileOf(t, pemOf(t, ecPair().public))})
	refused(t, a, withToken(t, signed(t, jwt.SigningMethodES256, newEC(elliptic.P256()).private, good())),
		http.StatusUnauthorized, RefusedSignature)
}

func TestSeveralKeysInOneFileAreAllGood(t *testing.T) {
	second := newEC(elliptic.P256())
	var file []byte
	for _, key := range []any{ecPair().public, rsaPair().public, second.public} {
		file = append(file, pemOf(t, key)...)
	}
	a := open(t, Config{Mode: ModeJWT, JWTKeyFile: fileOf(t, file)})
	admitted(t, a, withToken(t, signed(t, jwt.SigningMethodES256, ecPair().private, good())))
	admitted(t, a, withToken(t, signed(t, jwt.SigningMethodES256, second.private, good())))
	admitted(t, a, withToken(t, signed(t, jwt.SigningMethodRS256, rsaPair().private, good())))
	refused(t, a, withToken(t, signed(t, jwt.SigningMethodEdDSA, edPair().private, good())), http.StatusUnauthorized, RefusedSignature)
}

func TestTamperedTokensAreRefused(t *testing.T) {
	a := withSecret(t, nil)
	token := hs256(t, good())
	parts := strings.Split(token, ".")
	more := base64.RawURLEncoding.EncodeToString([]byte(`{"channels":["*"],"exp":99999999999}`))
	noneHeader := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	f := func(token string, why Reason) {
		t.Helper()
		d := refused(t, a, withToken(t, token), http.StatusUnauthorized, why)
		require.Equal(t, `Bearer realm="ssed", error="invalid_token"`, field(d, "WWW-Authenticate"))
	}
	f(parts[0]+"."+more+"."+parts[2], RefusedSignature)
	f(noneHeader+"."+parts[1]+"."+parts[2], RefusedSignature)
	f(noneHeader+"."+parts[1]+".", RefusedSignature)
	f(parts[0]+"."+parts[1]+".", RefusedSignature)
	f(parts[0]+"."+parts[1]+"."+strings.Repeat("A", len(parts[2])), RefusedSignature)
	f(parts[0]+"."+parts[1], RefusedMalformed)
	f(token+".", RefusedMalformed)
	f(token+"=", RefusedMalformed)
	f("", RefusedMalformed)
	f("..", RefusedMalformed)
	f("a b", RefusedMalformed)
	f(strings.Repeat(".", 5000), RefusedMalformed)
}

func TestEveryBitOfATokenCounts(t *testing.T) {
	a := withSecret(t, nil)
	token := hs256(t, good())
	admitted(t, a, withToken(t, token))
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range token {
		for _, c := range []byte{alphabet[i%64], alphabet[(i*7+13)%64]} {
			if c == token[i] {
				continue
			}
			_, err := a.Authorize(t.Context(), withToken(t, token[:i]+string(c)+token[i+1:]))
			var denial *engine.Denial
			require.ErrorAs(t, err, &denial, "octet %d changed to %q", i, c)
			require.Equal(t, http.StatusUnauthorized, denial.Status)
		}
	}
}

func TestHeaderExtensionsThatMustBeKnownAreRefused(t *testing.T) {
	a := withSecret(t, nil)
	refused(t, a, withToken(t, hs256(t, good(), "crit", []string{"b64"}, "b64", false)), http.StatusUnauthorized, RefusedSignature)
	admitted(t, a, withToken(t, hs256(t, good(), "x-something", "else")))
}

func TestTokensAreTakenWithinTheirTimesAndTheLeeway(t *testing.T) {
	const leeway = 30 * time.Second
	a := withSecret(t, func(cfg *Config) { cfg.JWTLeeway = leeway })
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }

	expired := refused(t, a, withToken(t, hs256(t, good("exp", at(-time.Minute)))), http.StatusUnauthorized, RefusedExpired)
	require.Equal(t, `Bearer realm="ssed", error="invalid_token", error_description="The token expired"`, field(expired, "WWW-Authenticate"))
	refused(t, a, withToken(t, hs256(t, good("nbf", at(time.Minute)))), http.StatusUnauthorized, RefusedNotYet)
	admitted(t, a, withToken(t, hs256(t, good("nbf", at(leeway/2)))))
	admitted(t, a, withToken(t, hs256(t, good("nbf", at(-time.Minute)))))

	strict := withSecret(t, func(cfg *Config) { cfg.JWTLeeway = -1 })
	refused(t, strict, withToken(t, hs256(t, good("exp", at(-2*time.Second)))), http.StatusUnauthorized, RefusedExpired)
	refused(t, strict, withToken(t, hs256(t, good("nbf", at(5*time.Second)))), http.StatusUnauthorized, RefusedNotYet)
}

func TestStreamEndsWhenTheTokenDoes(t *testing.T) {
	const leeway = 30 * time.Second
	a := withSecret(t, func(cfg *Config) { cfg.JWTLeeway = leeway })
	exp := time.Now().Add(time.Hour).Truncate(time.Second)
	require.True(t, exp.Equal(admitted(t, a, withToken(t, hs256(t, good("exp", exp.Unix())))).Expires))

	past := time.Now().Add(-leeway / 2).Truncate(time.Second)
	grant := admitted(t, a, withToken(t, hs256(t, good("exp", past.Unix()))))
	require.True(t, past.Add(leeway).Equal(grant.Expires), "a token inside the leeway has the rest of it")

	require.Zero(t, admitted(t, a, withToken(t, hs256(t, good("exp", nil)))).Expires)
}

func TestClaimsOfTheWrongKindAreRefused(t *testing.T) {
	a := withSecret(t, nil)
	f := func(name string, value any, why Reason) {
		t.Helper()
		refused(t, a, withToken(t, hs256(t, good(name, value))), http.StatusUnauthorized, why)
	}
	f("exp", "tomorrow", RefusedMalformed)
	f("exp", []int{1}, RefusedMalformed)
	f("exp", 1e17, RefusedClaims)
	f("nbf", -1e15, RefusedClaims)
	f("channels", 42, RefusedMalformed)
	f("channels", []any{"news:*", 42}, RefusedMalformed)
	f("channels", map[string]string{"news": "*"}, RefusedMalformed)
}

func TestTokensForAnotherAudienceOrIssuerAreRefused(t *testing.T) {
	a := withSecret(t, func(cfg *Config) {
		cfg.JWTAudience, cfg.JWTIssuer = []string{"sse", "push"}, "https://id.example.com"
	})
	f := func(audience, issuer any, ok bool) {
		t.Helper()
		r := withToken(t, hs256(t, good("aud", audience, "iss", issuer)))
		if ok {
			admitted(t, a, r)
			return
		}
		refused(t, a, r, http.StatusUnauthorized, RefusedAudience)
	}
	f("sse", "https://id.example.com", true)
	f([]string{"web", "push"}, "https://id.example.com", true)
	f("web", "https://id.example.com", false)
	f([]string{}, "https://id.example.com", false)
	f(nil, "https://id.example.com", false)
	f("sse", "https://id.example.com/", false)
	f("sse", nil, false)

	// Not configured, they are not looked at.
	admitted(t, withSecret(t, nil), withToken(t, hs256(t, good("aud", "anything", "iss", "anyone"))))
}

func TestAllChannelsMustBeCovered(t *testing.T) {
	a := withSecret(t, nil)
	f := func(claim any, query string, ok bool) {
		t.Helper()
		r := asking(t, "/sse/connect?"+query, "Authorization: Bearer "+hs256(t, good("channels", claim)))
		if ok {
			require.Equal(t, r.Channels, admitted(t, a, r).Channels)
			return
		}
		d := refused(t, a, r, http.StatusForbidden, RefusedChannels)
		require.Equal(t, `Bearer realm="ssed", error="insufficient_scope"`, field(d, "WWW-Authenticate"))
		require.NotContains(t, d.Body, r.Channels[len(r.Channels)-1])
	}
	f([]string{"user:42", "news:*"}, "channel_id=user:42&channel_id=news:a&channel_id=news:b", true)
	f([]string{"user:42", "news:*"}, "channel_id=user:42&channel_id=user:43", false)
	f([]string{"user:42", "news:*"}, "channel_id=user:4", false)
	f([]string{"user:42", "news:*"}, "channel_id=user:420", false)
	f([]string{"user:42", "news:*"}, "channel_id=news:", true)
	f([]string{"user:42", "news:*"}, "channel_id=news", false)
	f([]string{"user:42", "news:*"}, "channel_id=NEWS:a", false)
	f([]string{"user:42"}, "channel_id=user%3A42", true)
	f([]string{`a\*`}, "channel_id=ab", false)
	f([]string{`a\*`}, "channel_id=a*", true)
	f([]string{"user:4?"}, "channel_id=user:4*", true) // a name, no glob, whatever is in it
	f("news:*", "channel_id=news:a", true)
	f([]string{}, "channel_id=news:a", false)
	f([]string{""}, "channel_id=news:a", false)
	f(nil, "channel_id=news:a", false)
}

// encoding/json takes a name in any case for a field.
func TestClaimsAreSpelledInOneWay(t *testing.T) {
	a := withSecret(t, nil)
	for _, name := range []string{"CHANNELS", "Channels", "channelſ"} {
		token := hs256(t, good("channels", []string{"user:1"}, name, []string{"*"}))
		refused(t, a, withToken(t, token), http.StatusForbidden, RefusedChannels)
		token = hs256(t, good("channels", nil, name, []string{"*"}))
		refused(t, a, withToken(t, token), http.StatusForbidden, RefusedChannels)
	}
	past := time.Now().Add(-time.Hour).Unix()
	token := hs256(t, good("exp", past, "EXP", time.Now().Add(time.Hour).Unix(), "Exp", nil))
	refused(t, a, withToken(t, token), http.StatusUnauthorized, RefusedExpired)
}

func TestPayloadMustBeAnObject(t *testing.T) {
	a := withSecret(t, nil)
	for _, payload := range []string{"null", "[]", `"x"`, "1", "", "{", `{"channels":["*"]} {}`} {
		text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." +
			base64.RawURLEncoding.EncodeToString([]byte(payload))
		signature, err := jwt.SigningMethodHS256.Sign(text, []byte(testSecret))
		require.NoError(t, err)
		_, err = a.Authorize(t.Context(), withToken(t, text+"."+base64.RawURLEncoding.EncodeToString(signature)))
		var denial *engine.Denial
		require.ErrorAs(t, err, &denial, payload)
		require.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, denial.Status)
	}
}

func TestTokensComeByHeaderCookieOrQuery(t *testing.T) {
	token, other := hs256(t, good()), hs256(t, good("channels", []string{"user:1"}))
	const (
		bare = `Bearer realm="ssed"`
		plus = `Bearer realm="ssed", error="invalid_token"`
	)
	a := withSecret(t, func(cfg *Config) { cfg.Cookie, cfg.Query = "sid", "access_token" })
	yes := func(target string, lines ...string) {
		t.Helper()
		admitted(t, a, asking(t, target, lines...))
	}
	no := func(status int, why Reason, challenge, target string, lines ...string) {
		t.Helper()
		require.Equal(t, challenge, field(refused(t, a, asking(t, target, lines...), status, why), "WWW-Authenticate"))
	}
	yes(forNews, "Authorization: Bearer "+token)
	yes(forNews, "authorization: bEARER   "+token)
	yes(forNews, "Cookie: sid="+token)
	yes(forNews, `Cookie: a=b; sid="`+token+`" ; c=d`)
	yes(forNews, "Cookie: a=b", "Cookie: sid="+token)
	yes(forNews, "Cookie: sid=; sid="+token)
	yes(forNews + "&access_token=" + token)
	yes(forNews + "&access%5Ftoken=" + strings.ReplaceAll(token, ".", "%2e"))

	// The first place with a token counts, good or not.
	yes(forNews+"&access_token=x", "Authorization: Bearer "+token, "Cookie: sid=x")
	no(http.StatusUnauthorized, RefusedMalformed, plus, forNews+"&access_token="+token, "Authorization: Bearer x", "Cookie: sid="+token)
	no(http.StatusUnauthorized, RefusedMalformed, plus, forNews, "Authorization: Bearer", "Cookie: sid="+token)
	no(http.StatusForbidden, RefusedChannels, bare+`, error="insufficient_scope"`, forNews, "Cookie: sid="+other+"; sid="+token)
	// Another scheme has none.
	yes(forNews, "Authorization: Basic dXNlcjpwYXNz", "Cookie: sid="+token)
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews, "Authorization: Bearers "+token)
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews, "Authorization: "+token)
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews, "Cookie: SID="+token+"; xsid="+token)
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews+"&access_token=")
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews)
	no(http.StatusBadRequest, RefusedMalformed, bare+`, error="invalid_request"`, forNews,
		"Authorization: Bearer "+token, "Authorization: Bearer "+other)

	// Neither cookie nor query when not asked for.
	a = withSecret(t, nil)
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews, "Cookie: sid="+token)
	no(http.StatusUnauthorized, RefusedNoToken, bare, forNews+"&access_token="+token)
}

func TestGrantDoesNotShareTheRequestsChannels(t *testing.T) {
	r := withToken(t, hs256(t, good()))
	grant := admitted(t, withSecret(t, nil), r)
	r.Channels[0] = "changed"
	require.Equal(t, []string{"news:sport", "user:42"}, grant.Channels)
}

func FuzzTokens(f *testing.F) {
	a := open(f, Config{Mode: ModeJWT, JWTSecret: testSecret})
	signed := hs256(f, good("exp", nil)) // the same in every process
	f.Add(signed)
	f.Add(signed + "=")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if len(token) > 8<<10 || strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r == 0x7F }) {
			return
		}
		r := &engine.AuthRequest{Request: parse(t, forNews, "Authorization: Bearer "+token), Channels: []string{"user:42"}}
		_, err := a.Authorize(t.Context(), r)
		require.Equal(t, strings.Trim(token, " ") == signed, err == nil, token)
	})
}

func BenchmarkAuthorize(b *testing.B) {
	for _, one := range families(b) {
		b.Run(fmt.Sprintf("alg=%s", one.method.Alg()), func(b *testing.B) {
			a := open(b, one.config)
			r := withToken(b, signed(b, one.method, one.private, good()))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Authorize(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestTokenTellsWhoTheClientIs(t *testing.T) {
	a := open(t, Config{Mode: ModeJWT, JWTSecret: testSecret})
	f := func(sub, jti any, subject, token string) {
		t.Helper()
		c := good("sub", sub, "jti", jti)
		grant := admitted(t, a, withToken(t, signed(t, jwt.SigningMethodHS256, []byte(testSecret), c)))
		require.Equal(t, subject, grant.Subject)
		require.Equal(t, token, grant.Token)
	}
	long := strings.Repeat("ä", 127)
	f(nil, nil, "", "")
	f("user:42", "9f3a", "user:42", "9f3a")
	f(long, long, long, long)
	f(42, nil, "42", "") // as issuers with numbers for users send it
	f(9007199254740993, nil, "9007199254740993", "")

	for _, bad := range []any{"a\nb", strings.Repeat("a", 256), "\u0000", []string{"a"}, map[string]any{}, true} {
		for _, claim := range []string{"sub", "jti"} {
			token := signed(t, jwt.SigningMethodHS256, []byte(testSecret), good(claim, bad))
			d := refusedForAny(t, a, withToken(t, token), http.StatusUnauthorized)
			require.NotContains(t, d.Body, "a\nb")
		}
	}
	// Names of claims are taken as they are spelled.
	f2 := signed(t, jwt.SigningMethodHS256, []byte(testSecret), good("SUB", "root", "Jti", "x"))
	grant := admitted(t, a, withToken(t, f2))
	require.Empty(t, grant.Subject)
	require.Empty(t, grant.Token)
}

// refusedForAny is refused for whichever reason.
func refusedForAny(t testing.TB, a *Access, r *engine.AuthRequest, status int) *engine.Denial {
	t.Helper()
	_, err := a.Authorize(t.Context(), r)
	var denial *engine.Denial
	require.ErrorAs(t, err, &denial)
	require.Equal(t, status, denial.Status)
	return denial
}

func TestTokensMayHaveToEnd(t *testing.T) {
	a := open(t, Config{Mode: ModeJWT, JWTSecret: testSecret, RequireExp: true})
	sign := func(c jwt.MapClaims) string { return signed(t, jwt.SigningMethodHS256, []byte(testSecret), c) }
	require.NotZero(t, admitted(t, a, withToken(t, sign(good()))).Expires)
	refused(t, a, withToken(t, sign(good("exp", nil))), http.StatusUnauthorized, RefusedClaims)
}
