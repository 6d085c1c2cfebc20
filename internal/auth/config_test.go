package auth

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

func TestValidateTellsEverythingAtOnceByFlag(t *testing.T) {
	err := Config{
		Mode:          "jwtt",
		JWTSecretFile: "/nowhere",
		Cookie:        "sid",
		Query:         "token",
		JWTAudience:   []string{"a"},
		JWTIssuer:     "b",
		JWTLeeway:     time.Hour,
		URL:           "ftp://x",
		Timeout:       time.Hour,
		Concurrency:   -1,
		CacheTTL:      48 * time.Hour,
		ChannelsAllow: []string{""},
		ChannelsDeny:  []string{"ok", "a\x00b"},
	}.Validate()
	require.Error(t, err)
	for _, field := range []string{
		"Mode", "JWTSecretFile", "Cookie", "Query", "JWTAudience", "JWTIssuer",
		"JWTLeeway", "URL", "Timeout", "Concurrency", "CacheTTL", "ChannelsAllow", "ChannelsDeny",
	} {
		require.Equal(t, 1, strings.Count("\n"+err.Error(), "\nauth: "+field+": "), "%s in %v", field, err)
	}
}

func TestEachMistakeInAConfigIsNamed(t *testing.T) {
	public := fileOf(t, pemOf(t, ecPair().public))
	secret := fileOf(t, []byte(testSecret))
	f := func(cfg Config, want string) {
		t.Helper()
		err := cfg.Validate()
		if want == "" {
			require.NoError(t, err)
			return
		}
		require.ErrorContains(t, err, want)
		_, err = New(cfg)
		require.ErrorContains(t, err, want)
	}
	f(Config{}, "")
	f(Config{ChannelsAllow: []string{"a*"}, ChannelsDeny: []string{"b"}}, "")
	f(Config{Mode: ModeJWT, JWTKeyFile: public}, "")
	f(Config{Mode: ModeJWT, JWTSecretFile: secret, Cookie: "__Host-sid", Query: "access_token"}, "")
	f(Config{Mode: ModeJWT, JWKSURL: "https://id.example.com/.well-known/jwks.json?x=y"}, "")
	f(Config{Mode: ModeForward, URL: "http://127.0.0.1:9000/auth"}, "")
	f(Config{URL: "http://127.0.0.1:9000/auth"}, "")

	f(Config{Mode: ModeJWT}, "auth: Mode: jwt needs one of")
	f(Config{Mode: ModeForward}, "auth: Mode: forward needs Config.URL")
	f(Config{Mode: ModeJWT, JWTKeyFile: public, URL: "http://x/"}, "auth: URL: cannot be combined with Config.Mode jwt")
	f(Config{Mode: ModeJWT, JWTKeyFile: public, JWTSecret: testSecret}, "auth: JWTKeyFile: cannot be combined with Config.JWTSecret")
	f(Config{JWTKeyFile: public}, "auth: JWTKeyFile: needs Config.Mode jwt")
	f(Config{URL: "http://x/", Cookie: "sid"}, "auth: Cookie: needs Config.Mode jwt")
	f(Config{JWTSecret: testSecret}, "auth: JWTSecret: needs Config.Mode jwt")
	f(Config{Mode: ModeJWT, JWTSecret: testSecret, Cookie: "a b"}, "auth: Cookie: ")
	for _, taken := range []string{"channel_id", "channels", "tell", "since", "last"} {
		f(Config{Mode: ModeJWT, JWTSecret: testSecret, Query: taken}, "auth: Query: ")
	}
	f(Config{Mode: ModeJWT, JWTSecret: testSecret, JWTAudience: []string{""}}, "auth: JWTAudience: ")
	for _, url := range []string{"x", "//host/", "ftp://host/", "http:///path", "http://a b/", "http://u@host/", "http://host/#f", "unix:/run/x"} {
		f(Config{URL: url}, "auth: URL: ")
		f(Config{Mode: ModeJWT, JWKSURL: url}, "auth: JWKSURL: ")
	}
}

func TestUnfitKeyFilesAreRefused(t *testing.T) {
	private, err := x509.MarshalPKCS8PrivateKey(ecPair().private)
	require.NoError(t, err)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	f := func(content []byte, want string) {
		t.Helper()
		require.ErrorContains(t, Config{Mode: ModeJWT, JWTKeyFile: fileOf(t, content)}.Validate(), want)
	}
	f(nil, "no public key")
	f([]byte(testSecret), "no public key")
	f(block("PRIVATE KEY", private), "block 1: neither a public key nor a certificate")
	f(append(pemOf(t, ecPair().public), block("PUBLIC KEY", []byte("x"))...), "block 2: damaged")
	f(pemOf(t, newRSA(1024).public), "1024 bits")
	f(pemOf(t, newEC(elliptic.P384()).public), "P-256")
	f(make([]byte, maxKeyFileBytes+1), "larger than")

	g := func(secret []byte, want string) {
		t.Helper()
		require.ErrorContains(t, Config{Mode: ModeJWT, JWTSecretFile: fileOf(t, secret)}.Validate(), want)
	}
	g(nil, "0 bytes")
	g([]byte("0123456789012345678901234567890\n"), "31 bytes")
	g(pemOf(t, rsaPair().public), "a PEM file is not a secret")
	require.ErrorContains(t, Config{Mode: ModeJWT, JWTSecretFile: "/nowhere/at/all"}.Validate(), `"/nowhere/at/all": no such file`)
	require.Error(t, Config{Mode: ModeJWT, JWTSecretFile: t.TempDir()}.Validate())
}

func TestCertificatesAndLineEndsInKeyFilesAreTaken(t *testing.T) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, ecPair().public, ecPair().private)
	require.NoError(t, err)
	a := open(t, Config{Mode: ModeJWT, JWTKeyFile: fileOf(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))})
	admitted(t, a, withToken(t, es256(t, ecPair())))

	// The line end that an editor leaves is not part of a secret.
	for _, end := range []string{"", "\n", "\r\n"} {
		a := open(t, Config{Mode: ModeJWT, JWTSecretFile: fileOf(t, []byte(testSecret+end))})
		admitted(t, a, withToken(t, hs256(t, good())))
	}
	a = open(t, Config{Mode: ModeJWT, JWTSecretFile: fileOf(t, []byte(testSecret+" "))})
	refused(t, a, withToken(t, signed(t, jwt.SigningMethodHS256, []byte(testSecret), good())), http.StatusUnauthorized, RefusedSignature)
}

func TestEnabledMeansThatSomethingIsRestricted(t *testing.T) {
	require.False(t, Config{}.Enabled())
	require.False(t, Config{Timeout: time.Second, CacheTTL: -1}.Enabled())
	require.True(t, Config{Mode: ModeJWT}.Enabled())
	require.True(t, Config{URL: "http://x/"}.Enabled())
	require.True(t, Config{ChannelsDeny: []string{"x"}}.Enabled())
}

func TestReasonsHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, reason := range Reasons() {
		require.NotEmpty(t, reason.String())
		require.False(t, seen[reason.String()])
		seen[reason.String()] = true
	}
	require.Len(t, Stats{}.Refused, len(seen))
}
