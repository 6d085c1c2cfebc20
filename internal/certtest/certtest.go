// Package certtest makes certificates for tests: an authority of their own, and what it
// signs, as files of PEM.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates. Its files are gone at the end of the test.
type Authority struct {
	CA    string         // path of its own certificate
	Roots *x509.CertPool // with it alone

	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate with its key.
type Pair struct {
	Cert, Key string // paths
	Both      string // path of a file that holds both
}

// New makes an authority.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, key: newKey(), Roots: x509.NewCertPool()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der := a.sign(a.cert, a.key)
	a.Roots.AddCert(must(x509.ParseCertificate(der)))
	a.CA = a.file("ca.pem", "CERTIFICATE", der)
	return a
}

// Issue makes a certificate for names and addresses, for servers and clients alike.
func (a *Authority) Issue(names ...string) Pair {
	a.t.Helper()
	key := newKey()
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, name)
		}
	}
	der, keyDER := a.sign(cert, key), must(x509.MarshalPKCS8PrivateKey(key))
	both := append(encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)...)
	return Pair{
		Cert: a.file("cert.pem", "CERTIFICATE", der),
		Key:  a.file("key.pem", "PRIVATE KEY", keyDER),
		Both: a.write("both.pem", both),
	}
}

func (a *Authority) sign(cert *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	return must(x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key))
}

func (a *Authority) file(name, kind string, der []byte) string {
	return a.write(name, encode(kind, der))
}

func (a *Authority) write(name string, text []byte) string {
	a.t.Helper()
	path := filepath.Join(a.t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newKey() *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// must is for what fails only where the test itself is wrong.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
