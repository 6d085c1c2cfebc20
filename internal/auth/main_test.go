package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/engine"
	"ssed/sseproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = time.Minute

const testSecret = "a secret of more than thirty-two octets"

var clientAddr = netip.MustParseAddr("192.0.2.7")

// keyPair is a private key and its public one.
type keyPair struct{ private, public any }

var (
	rsaPair = sync.OnceValue(func() keyPair { return newRSA(2048) })
	ecPair  = sync.OnceValue(func() keyPair { return newEC(elliptic.P256()) })
	edPair  = sync.OnceValue(newEd)
)

func newRSA(bits int) keyPair {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return keyPair{key, &key.PublicKey}
}

func newEC(curve elliptic.Curve) keyPair {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return keyPair{key, &key.PublicKey}
}

func newEd() keyPair {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return keyPair{private, public}
}

func pemOf(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func fileOf(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// signed returns a token. A nil header entry takes that one out.
func signed(t testing.TB, method jwt.SigningMethod, key any, c jwt.MapClaims, header ...any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return text
}

// good are claims that cover user:42 and news:*.
func good(more ...any) jwt.MapClaims {
	c := jwt.MapClaims{
		"channels": []string{"user:42", "news:*"},
		"exp":      time.Now().Add(time.Hour).Unix(),
	}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == nil {
			delete(c, more[i].(string))
			continue
		}
		c[more[i].(string)] = more[i+1]
	}
	return c
}

// parse returns a GET of target with further header lines.
func parse(t testing.TB, target string, lines ...string) *sseproto.Request {
	t.Helper()
	lines = append([]string{"GET " + target + " HTTP/1.1", "Host: sse.example.com"}, lines...)
	head := []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")
	req, n, err := sseproto.ParseRequest(head, sseproto.Limits{})
	require.NoError(t, err)
	require.Len(t, head, n)
	return &req
}

// asking returns a request for the channels of its query.
func asking(t testing.TB, target string, lines ...string) *engine.AuthRequest {
	t.Helper()
	req := parse(t, target, lines...)
	channels, err := sseproto.ChannelIDs(nil, req.Query, 1000)
	require.NoError(t, err)
	return &engine.AuthRequest{Request: req, Channels: channels, Client: clientAddr}
}

const forNews = "/sse/connect?channel_id=news:sport&channel_id=user:42"

// withToken asks for news and user:42.
func withToken(t testing.TB, token string) *engine.AuthRequest {
	t.Helper()
	return asking(t, forNews, "Authorization: Bearer "+token)
}

func open(t testing.TB, cfg Config) *Access { return openAt(t, cfg, keyPace) }

func openAt(t testing.TB, cfg Config, pace pace) *Access {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a, err := newAccess(cfg, pace)
	require.NoError(t, err)
	t.Cleanup(a.Close)
	return a
}

// admitted authorises r and expects a grant.
func admitted(t testing.TB, a *Access, r *engine.AuthRequest) engine.Grant {
	t.Helper()
	grant, err := a.Authorize(t.Context(), r)
	require.NoError(t, err)
	require.NotEmpty(t, grant.Channels)
	return grant
}

// refused authorises r and expects a refusal, counted under why.
func refused(t testing.TB, a *Access, r *engine.AuthRequest, status int, why Reason) *engine.Denial {
	t.Helper()
	return refusedIn(t, t.Context(), a, r, status, why)
}

func refusedIn(t testing.TB, ctx context.Context, a *Access, r *engine.AuthRequest, status int, why Reason) *engine.Denial {
	t.Helper()
	before := a.Stats()
	grant, err := a.Authorize(ctx, r)
	var denial *engine.Denial
	require.ErrorAs(t, err, &denial)
	require.Zero(t, grant)
	require.Equal(t, status, denial.Status, denial.Body)
	require.NotEmpty(t, denial.Body)
	after := a.Stats()
	require.Equal(t, before.Refused[why]+1, after.Refused[why], "not counted as %v: %v", why, after.Refused)
	require.Equal(t, before.Granted, after.Granted)
	return denial
}

// outcome is the status of a refusal, or 200. It may be called on any goroutine.
func outcome(ctx context.Context, a *Access, r *engine.AuthRequest) int {
	_, err := a.Authorize(ctx, r)
	var denial *engine.Denial
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &denial):
		return denial.Status
	}
	return 0
}

func field(d *engine.Denial, name string) string {
	var values []string
	for _, f := range d.Fields {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return strings.Join(values, " | ")
}

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond)
}
