package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"ssed/engine"
)

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// everythingSaid is all that an error has in it, the whole chain printed deeply.
func everythingSaid(err error) string {
	said := fmt.Sprintf("%v %+v %#v", err, err, err)
	var denial *engine.Denial
	if errors.As(err, &denial) {
		said += fmt.Sprintf("%+v", *denial)
	}
	return said
}

// A token is not told in any part: neither is its payload, nor its signature, nor a
// key ID, which is the sender's to choose.
func TestTokensAreNotRepeated(t *testing.T) {
	const marker = "MARKER-IN-THE-TOKEN"
	var log safeBuffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := newIssuer(t, jwk(t, "1", ecPair().public))
	accesses := []*Access{
		open(t, Config{Mode: ModeJWT, JWTSecret: testSecret, Cookie: "sid", Query: "token", Logger: logger}),
		openAt(t, Config{Mode: ModeJWT, JWKSURL: s.URL, Cookie: "sid", Query: "token", Logger: logger}, quick),
	}
	tokens := []string{
		marker,
		marker + "." + marker + "." + marker,
		hs256(t, good("channels", marker, "sub", marker)),
		hs256(t, good("exp", 1, "sub", marker)),
		hs256(t, good("nbf", marker)),
		hs256(t, good("sub", marker), "kid", marker),
		hs256(t, good("sub", marker), "alg", marker),
		es256(t, ecPair(), "kid", marker),
		es256(t, ecPair(), "kid", "1", "crit", []string{marker}),
		signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good("sub", marker)),
	}
	for _, a := range accesses {
		for _, token := range tokens {
			for _, r := range []*engine.AuthRequest{
				asking(t, forNews, "Authorization: Bearer "+token),
				asking(t, forNews, "Cookie: sid="+token),
				asking(t, forNews+"&token="+token),
			} {
				_, err := a.Authorize(t.Context(), r)
				if err == nil {
					continue
				}
				said := everythingSaid(err)
				require.NotContains(t, said, marker)
				for part := range strings.SplitSeq(token, ".") {
					require.False(t, part != "" && strings.Contains(said, part), said)
				}
			}
		}
	}
	require.NotContains(t, log.String(), marker)
	for _, token := range tokens {
		require.NotContains(t, log.String(), token)
	}
}

func TestSecretsAreNotRepeated(t *testing.T) {
	const marker = "MARKER-IN-THE-SECRET"
	short := marker[:20]
	f := func(cfg Config) {
		t.Helper()
		cfg.Mode = ModeJWT
		err := cfg.Validate()
		require.Error(t, err)
		require.NotContains(t, everythingSaid(err), marker)
		_, err = New(cfg)
		require.Error(t, err)
		require.NotContains(t, everythingSaid(err), marker)
	}
	f(Config{JWTSecret: Secret(short)})
	f(Config{JWTSecretFile: fileOf(t, []byte(short))})
	f(Config{JWTKeyFile: fileOf(t, []byte(marker))})
	f(Config{JWTKeyFile: fileOf(t, []byte("-----BEGIN PRIVATE KEY-----\n"+strings.ReplaceAll(marker, "-", "A")+"\n-----END PRIVATE KEY-----\n"))})
	f(Config{JWKSURL: "https://user:" + marker + "@id.example.com/jwks"})
	f(Config{JWKSURL: "https://id.example.com:" + marker + "/jwks"})
	f(Config{JWKSURL: marker + "://id.example.com"})

	cfg := Config{Mode: ModeJWT, JWTSecret: marker + marker}
	text, err := json.Marshal(cfg.JWTSecret)
	require.NoError(t, err)
	var log safeBuffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", cfg.JWTSecret, "config", cfg)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", cfg.JWTSecret)
	said := fmt.Sprintf("%v %+v %#v %s %q %x %v", cfg, cfg, cfg, cfg.JWTSecret, cfg.JWTSecret, cfg.JWTSecret, &cfg) + string(text) + log.String()
	require.NotContains(t, said, marker)
	require.NotContains(t, said, fmt.Sprintf("%x", marker))
	require.Contains(t, said, "[redacted]")
}

// What is logged of an outage must not have the URL, what was sent, or what came.
func TestOutagesAreLoggedWithoutSecretsAndNotEachTime(t *testing.T) {
	const marker = "MARKER-OF-THE-CLIENT"
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			// An answer that is none, and repeats the request.
			buf := make([]byte, 8<<10)
			n, _ := conn.Read(buf)
			_, _ = conn.Write(append([]byte("HTTP/1.1 "), bytes.ReplaceAll(buf[:n], []byte("\r\n"), []byte(" "))...))
			_, _ = conn.Write([]byte("\r\n\r\n"))
			_ = conn.Close()
		}
	})
	defer wg.Wait()
	defer server.Close()

	for _, cfg := range []Config{
		{URL: "http://" + server.Addr().String() + "/?key=" + marker},
		{URL: "http://127.0.0.1:1/?key=" + marker},
		{Mode: ModeJWT, JWKSURL: "http://" + server.Addr().String() + "/?key=" + marker},
	} {
		var log safeBuffer
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		a := openAt(t, cfg, still)
		for range 5 {
			_, err := a.Authorize(t.Context(), asking(t, forNews+"&t="+marker,
				"Authorization: Bearer "+es256(t, ecPair()), "Cookie: a="+marker))
			var denial *engine.Denial
			require.ErrorAs(t, err, &denial)
			require.Equal(t, http.StatusServiceUnavailable, denial.Status)
			require.NotContains(t, everythingSaid(err), marker)
		}
		require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
		require.NotContains(t, log.String(), marker)
		require.NotContains(t, log.String(), "Bearer")
	}
}

// TestServiceThatFailsInTurnsDoesNotFloodTheLog: with each second answer a failure, 300
// requests made 298 lines.
func TestServiceThatFailsInTurnsDoesNotFloodTheLog(t *testing.T) {
	var log safeBuffer
	s := newService(t, nil)
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		if s.asked.Load()%2 == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	a := s.uncached(t, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for i := range 300 {
		require.Equal(t, i%2 == 1, outcome(t.Context(), a, asking(t, forNews)) == http.StatusOK)
	}
	// Two lines a minute; slow machines may take some.
	require.Contains(t, log.String(), "works again")
	require.LessOrEqual(t, strings.Count(log.String(), "\n"), 20, log.String())
}

func TestOutageEndsWithOneLine(t *testing.T) {
	var log safeBuffer
	o := outage{logger: slog.New(slog.NewTextHandler(&log, nil)), what: "it"}
	o.note(nil)
	o.note(io.ErrUnexpectedEOF)
	o.note(io.ErrUnexpectedEOF)
	o.note(nil)
	o.note(nil)
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"))
	require.Equal(t, 1, strings.Count(log.String(), "level=INFO"))
}
