package auth

import (
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"ssed/engine"
)

func TestPublishersMayWhatTheirTokensSay(t *testing.T) {
	const ofBackends = "a secret of backends that has thirty-two octets"
	sign := func(key string, more ...any) string {
		c := jwt.MapClaims{"sub": "shop", "publish": []string{"orders:*", "news"}, "exp": time.Now().Add(time.Hour).Unix()}
		for i := 0; i < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return "Bearer " + signed(t, jwt.SigningMethodHS256, []byte(key), c)
	}
	f := func(cfg Config, key string) {
		t.Helper()
		p := open(t, cfg).Publishers()
		who, err := p.Authorize(t.Context(), []string{sign(key)})
		require.NoError(t, err)
		require.Equal(t, "shop", who.Subject)
		require.True(t, who.May("orders:1"))
		require.True(t, who.May("news"))
		require.False(t, who.May("news:1"))
		require.False(t, who.May("other"))
		bad := func(status int, authorization ...string) {
			t.Helper()
			_, err := p.Authorize(t.Context(), authorization)
			var d *engine.Denial
			require.ErrorAs(t, err, &d)
			require.Equal(t, status, d.Status)
			require.NotEmpty(t, field(d, "WWW-Authenticate"))
		}
		bad(http.StatusUnauthorized)
		bad(http.StatusUnauthorized, "Basic YTpi")
		bad(http.StatusUnauthorized, "Bearer ")
		bad(http.StatusUnauthorized, sign("another secret that has thirty-two octets."))
		bad(http.StatusUnauthorized, sign(key, "exp", time.Now().Add(-time.Hour).Unix()))
		bad(http.StatusUnauthorized, sign(key, "publish", 7))
		bad(http.StatusBadRequest, sign(key), sign(key))
		bad(http.StatusForbidden, sign(key, "publish", []string{}))
		// What a client may read it may not write, and names are taken as they are spelled.
		bad(http.StatusForbidden, "Bearer "+signed(t, jwt.SigningMethodHS256, []byte(key), good("PUBLISH", "*")))
		require.EqualValues(t, 1, p.Stats().Granted)
		require.EqualValues(t, 3, p.Stats().Refused[RefusedChannels]+p.Stats().Refused[RefusedExpired])
	}
	f(Config{Mode: ModeJWT, JWTSecret: testSecret, Publishers: &PublisherKeys{}}, testSecret)
	own := &PublisherKeys{SecretFile: fileOf(t, []byte(ofBackends))}
	f(Config{Mode: ModeJWT, JWTSecret: testSecret, Publishers: own}, ofBackends)
	f(Config{Publishers: own}, ofBackends)
	f(Config{URL: "http://127.0.0.1:1/", Publishers: own}, ofBackends)

	require.Nil(t, open(t, Config{Mode: ModeJWT, JWTSecret: testSecret}).Publishers())
	// The keys of backends are not those of clients.
	a := open(t, Config{Mode: ModeJWT, JWTSecret: testSecret, Publishers: own})
	refused(t, a, withToken(t, signed(t, jwt.SigningMethodHS256, []byte(ofBackends), good())), http.StatusUnauthorized, RefusedSignature)
}

func TestPublishersNeedKeys(t *testing.T) {
	require.ErrorContains(t, Config{Publishers: &PublisherKeys{}}.Validate(), "auth: Publishers: needs")
	require.ErrorContains(t, Config{URL: "http://127.0.0.1:1/", Publishers: &PublisherKeys{}}.Validate(), "auth: Publishers: needs")
	require.ErrorContains(t, Config{Publishers: &PublisherKeys{SecretFile: "/nowhere"}}.Validate(), "auth: Publishers.SecretFile: ")
	require.ErrorContains(t, Config{Publishers: &PublisherKeys{KeyFile: "/nowhere"}}.Validate(), "auth: Publishers.KeyFile: ")
	require.ErrorContains(t, Config{Publishers: &PublisherKeys{SecretFile: "/a", KeyFile: "/b"}}.Validate(), "cannot be combined")
	pair := edPair()
	require.NoError(t, Config{Publishers: &PublisherKeys{KeyFile: fileOf(t, pemOf(t, pair.public))}}.Validate())
}
