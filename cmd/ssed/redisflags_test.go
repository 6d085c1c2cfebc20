package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/certtest"
	"ssed/internal/redistest"
)

// TestTornRedisURLIsRefused: an unescaped character in the password made a host of a part
// of it, which stood in the log and went to DNS. ssed config hides such a URL as well.
func TestTornRedisURLIsRefused(t *testing.T) {
	t.Parallel()
	commands := []string{"serve", "config", "doctor"} // one for each, and all for the first: they read the URL alike
	for k, url := range []string{
		"redis://s3cret#s3cret@127.0.0.1:6379",
		"redis://:12#s3cret@127.0.0.1:6379",
		"redis://user:12/s3cret@127.0.0.1:6379",
		"redis://user:12?s3cret@127.0.0.1:6379",
		"redis://user:12#s3cret",
		"redis://s3cret/@127.0.0.1",
		"rediss://s3cret?x=@127.0.0.1:6379/0",
		"redis://127.0.0.1:6379?addr=user:s3cret@127.0.0.1:6380&master_set=a",
	} {
		tried := []string{commands[k%len(commands)]}
		if k == 0 {
			tried = commands
		}
		for _, command := range tried {
			code, stdout, stderr := readFlags(t, []string{"SSED_REDIS_URL=" + url}, command)
			require.Equal(t, exitUsage, code, "%s %s", command, url)
			require.Contains(t, stderr, "--redis-url: not a URL such as")
			require.NotContains(t, stdout+stderr, "s3cret", url)
		}
	}
	for _, query := range []string{"password=s3cret", "addr=127.0.0.1:6380&master_set=a&sentinel_password=s3cret", "s3cret", "db=1;password=s3cret", "DB=1"} {
		for _, command := range []string{"serve", "config", "pub"} {
			args := map[string][]string{"pub": {"a", "x"}}[command]
			code, stdout, stderr := readFlags(t, []string{"SSED_REDIS_URL=redis://127.0.0.1:1?" + query}, append([]string{command}, args...)...)
			require.Equal(t, exitUsage, code, "%s %s", command, query)
			require.Contains(t, stderr, "--redis-url: the query has a parameter that is none of addr")
			require.NotContains(t, stdout+stderr, "s3cret", query)
		}
	}
	// Escaped, or where it does no harm, it is one password.
	for _, url := range []string{"redis://user:p%40s%23s%2Fw%3F@127.0.0.1:6379/0", "redis://user:p@ss@127.0.0.1:6379"} {
		code, _, stderr := readFlags(t, []string{"SSED_REDIS_URL=" + url}, "config")
		require.Equal(t, exitOK, code, stderr)
	}
}

func TestRedisCertificatesAreChecked(t *testing.T) {
	t.Parallel()
	a := certtest.New(t)
	pair := a.Issue("127.0.0.1")
	missing := filepath.Join(t.TempDir(), "missing")
	f := func(url string, flags []string, want ...string) {
		t.Helper()
		code, _, stderr := readFlags(t, []string{"SSED_REDIS_URL=" + url}, append([]string{"config"}, flags...)...)
		for _, name := range want {
			require.Contains(t, stderr, "ssed: "+name+": ")
		}
		require.Equal(t, len(want) > 0, code == exitUsage, stderr)
	}
	const url = "rediss://127.0.0.1:6379"
	all := []string{"--redis-ca", a.CA, "--redis-cert", pair.Cert, "--redis-key", pair.Key}
	f(url, all)
	f("redis://127.0.0.1:6379", all, "--redis-ca", "--redis-cert", "--redis-key")
	f(url, []string{"--redis-ca", missing, "--redis-cert", missing, "--redis-key", missing}, "--redis-ca", "--redis-cert")
	f(url, []string{"--redis-ca", pair.Key}, "--redis-ca")
	f(url, []string{"--redis-cert", pair.Cert}, "--redis-cert")
	f(url, []string{"--redis-key", pair.Key}, "--redis-cert")
	f(url+"?skip_verify=true", all, "--redis-ca")
}

// secureRedis is a redis-server that speaks TLS too and demands a certificate of clients.
// A program that was built without TLS has it from a proxy.
func secureRedis(t *testing.T, a *certtest.Authority) (r *redistest.Server, port string) {
	t.Helper()
	n, err := redistest.FreePort()
	require.NoError(t, err)
	pair := a.Issue("localhost", "127.0.0.1")
	port = strconv.Itoa(n)
	r, err = redistest.Run(t.TempDir(), 0, "--tls-port", port, "--tls-cert-file", pair.Cert, "--tls-key-file", pair.Key,
		"--tls-ca-cert-file", a.CA, "--tls-auth-clients", "yes")
	if err != nil && strings.Contains(err.Error(), "TLS support") {
		return proxiedRedis(t, a, pair)
	}
	require.NoError(t, err)
	t.Cleanup(r.Kill)
	return r, port
}

// proxiedRedis is a redis-server behind a proxy that demands a certificate of clients.
func proxiedRedis(t *testing.T, a *certtest.Authority, pair certtest.Pair) (r *redistest.Server, port string) {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	require.NoError(t, err)
	ca, err := os.ReadFile(a.CA)
	require.NoError(t, err)
	clients := x509.NewCertPool()
	require.True(t, clients.AppendCertsFromPEM(ca))
	r = redistest.Start(t)
	port = relayTLS(t, r.Addr(), &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients})
	return r, port
}

// relayTLS listens for TLS, and passes on what comes to a server.
func relayTLS(t *testing.T, to string, config *tls.Config) (port string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { relay(client.(*tls.Conn), to) })
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { listener.Close() })
	_, port, err = net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

// refusedCertificate is what a client reads of a server that refuses its certificate: an
// alert, or no more than that the connection has ended. A server that closes with commands
// unread resets it, and a client that is still sending then does not come to the alert.
const refusedCertificate = "remote error: tls: |closed|EOF|reset|broken pipe"

// awaitNotReady waits until /ready tells a reason that matches.
func (in *instance) awaitNotReady(reason string) {
	in.t.Helper()
	pattern := regexp.MustCompile(reason)
	in.eventually("the reason: "+reason, func() bool {
		status, body := in.get(in.admin + "/ready")
		return status == http.StatusServiceUnavailable && pattern.MatchString(body)
	})
}

func TestRedisByTLS(t *testing.T) {
	t.Parallel()
	a, other := certtest.New(t), certtest.New(t)
	mine, foreign := a.Issue("ssed"), other.Issue("ssed")
	r, port := secureRedis(t, a)
	url := "rediss://localhost:" + port
	trusted, own := []string{"--redis-ca", a.CA}, []string{"--redis-cert", mine.Cert, "--redis-key", mine.Key}

	works := func(url string, flags ...string) *instance {
		t.Helper()
		in := start(t, append([]string{"--redis-url", url}, flags...)...)
		in.waitReady()
		c := connect(t, in, "", "a")
		code, _, stderr := runProgram(t, nil, append([]string{"pub", "--redis-url", url, "a", "by TLS"}, flags...)...)
		require.Equal(t, exitOK, code, stderr)
		c.want("by TLS")
		return in
	}
	fails := func(url, reason string, flags ...string) {
		t.Helper()
		start(t, append([]string{"--redis-url", url}, flags...)...).awaitNotReady(reason)
	}
	in := works(url, append(trusted, own...)...)
	require.NotContains(t, in.Log(), "skip_verify")
	works("rediss://127.0.0.1:"+port, append(trusted, own...)...)
	in = works(url+"?skip_verify=true", own...)
	in.logs("skip_verify=true")
	_, stdout, _ := runProgram(t, nil, append([]string{"doctor", "--redis-url", url + "?skip_verify=true"}, own...)...)
	require.Contains(t, stdout, "warn  redis TLS: skip_verify=true")
	_, stdout, _ = runProgram(t, nil, append([]string{"doctor", "--redis-url", url}, append(trusted, own...)...)...)
	require.Contains(t, stdout, "ok    redis TLS: ")
	require.NotContains(t, stdout, "answers within 0s")
	_, stdout, _ = runProgram(t, nil, append([]string{"doctor", "--redis-url", url}, own...)...)
	require.Contains(t, stdout, "certificate signed by unknown authority")
	require.Contains(t, stdout, "--redis-ca PATH")

	fails(url, "certificate signed by unknown authority", own...)
	fails(url, "certificate signed by unknown authority", append([]string{"--redis-ca", other.CA}, own...)...)
	fails(url, refusedCertificate, trusted...)
	fails(url, refusedCertificate, "--redis-ca", a.CA, "--redis-cert", foreign.Cert, "--redis-key", foreign.Key)
	require.NotZero(t, r.Pid())
}

// TestRedisIsToldTheNameOfEachServer: SNI is what a proxy in front of many servers goes
// by, and the certificate is checked against it.
func TestRedisIsToldTheNameOfEachServer(t *testing.T) {
	a := certtest.New(t)
	r := redistest.Start(t)
	pair := a.Issue("localhost")
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	require.NoError(t, err)
	names := make(chan string, 100)
	port := relayTLS(t, r.Addr(), &tls.Config{
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			names <- hello.ServerName
			return &cert, nil
		},
	})
	code, stdout, stderr := runProgram(t, nil, "pub", "--redis-url", "rediss://localhost:"+port, "--redis-ca", a.CA, "a", "x")
	require.Equal(t, exitFailed, code, stderr) // nobody is subscribed
	require.Equal(t, "receivers: 0\n", stdout)
	require.Equal(t, "localhost", <-names)
	code, _, stderr = runProgram(t, nil, "pub", "--redis-url", "rediss://127.0.0.1:"+port, "--redis-ca", a.CA, "a", "x")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "127.0.0.1", "the certificate is for localhost")
}

// relay passes on what comes in either direction, until one side ends. A client that is
// refused has sent its first commands by then: closed before they are read, its connection
// is reset, and the alert that tells it why may be lost.
func relay(client *tls.Conn, to string) {
	defer client.Close()
	if client.Handshake() != nil {
		plain := client.NetConn()
		_ = plain.(*net.TCPConn).CloseWrite() // so that the client closes too
		_, _ = io.Copy(io.Discard, plain)
		return
	}
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, bufio.NewReader(client))
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
	_ = client.Close()
	up.Wait()
}

// TestRenewedCertificateIsTakenWithoutARestart: it is read for each connection.
func TestRenewedCertificateIsTakenWithoutARestart(t *testing.T) {
	t.Parallel()
	a, other := certtest.New(t), certtest.New(t)
	r, port := secureRedis(t, a)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(pair certtest.Pair) {
		for from, to := range map[string]string{pair.Cert: cert, pair.Key: key} {
			text, err := os.ReadFile(from)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(to, text, 0o600))
		}
	}
	write(other.Issue("ssed"))
	in := start(t, "--redis-url", "rediss://localhost:"+port, "--redis-ca", a.CA, "--redis-cert", cert, "--redis-key", key)
	in.awaitNotReady(refusedCertificate)
	require.False(t, in.isReady())
	write(a.Issue("ssed"))
	in.waitReady()
	require.NotZero(t, r.Pid())
}
