package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"

	"github.com/golang-jwt/jwt/v5"
)

// keySource has the keys with which signatures are checked.
type keySource interface {
	// lookup returns what is to check the signature of a token that has one of
	// the algorithms: a key or a jwt.VerificationKeySet. Client is who may have to wait.
	lookup(ctx context.Context, client netip.Addr, token *jwt.Token) (any, error)
	algorithms() []string
}

const (
	// minSecretBytes: a key of HS256 is no shorter than its hash (RFC 7518 §3.2). One
	// that is can be found by trying, offline, with any token.
	minSecretBytes = 32
	// minRSABits is what RFC 7518 §3.3 asks for.
	minRSABits = 2048
	// maxKeyFileBytes is room for some thirty certificates.
	maxKeyFileBytes = 64 << 10
)

var (
	algHS256 = jwt.SigningMethodHS256.Alg()
	algRS256 = jwt.SigningMethodRS256.Alg()
	algES256 = jwt.SigningMethodES256.Alg()
	algEdDSA = jwt.SigningMethodEdDSA.Alg()
)

// staticKeys were read at the start. Each algorithm has its own, so that no key is
// ever tried with an algorithm that it is not for.
type staticKeys struct {
	byAlgorithm map[string][]jwt.VerificationKey
}

func (k *staticKeys) lookup(_ context.Context, _ netip.Addr, token *jwt.Token) (any, error) {
	return jwt.VerificationKeySet{Keys: k.byAlgorithm[token.Method.Alg()]}, nil
}

func (k *staticKeys) algorithms() []string {
	all := make([]string, 0, len(k.byAlgorithm))
	for algorithm := range k.byAlgorithm {
		all = append(all, algorithm)
	}
	return all
}

func secretFromFile(path string) (*staticKeys, error) {
	content, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	return secretKey(content)
}

// secretKey takes a secret. A PEM text is refused: it is public more often than not,
// and who has it could sign tokens.
func secretKey(content []byte) (*staticKeys, error) {
	secret := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	switch {
	case len(secret) < minSecretBytes:
		return nil, fmt.Errorf("the secret has %d bytes, at least %d are needed", len(secret), minSecretBytes)
	case bytes.Contains(secret, []byte("-----BEGIN ")):
		return nil, errors.New("a PEM file is not a secret, see Config.JWTKeyFile")
	}
	return &staticKeys{byAlgorithm: map[string][]jwt.VerificationKey{algHS256: {secret}}}, nil
}

// publicKeysFromFile reads all keys of a PEM file; several serve a change of keys.
func publicKeysFromFile(path string) (*staticKeys, error) {
	rest, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	keys := &staticKeys{byAlgorithm: make(map[string][]jwt.VerificationKey)}
	for count := 1; ; count++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		key, err := publicKey(block)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", count, err)
		}
		algorithm, err := algorithmOf(key)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", count, err)
		}
		keys.byAlgorithm[algorithm] = append(keys.byAlgorithm[algorithm], key)
	}
	if len(keys.byAlgorithm) == 0 {
		return nil, errors.New("no public key in PEM form in it")
	}
	return keys, nil
}

// publicKey decodes a block. What x509 finds wrong is not repeated: it may quote
// from the file.
func publicKey(block *pem.Block) (key any, err error) {
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	default:
		return nil, errors.New("neither a public key nor a certificate")
	}
	if err != nil {
		return nil, errors.New("damaged, or of an unknown kind")
	}
	return key, nil
}

// algorithmOf returns the only algorithm that a public key is used with.
func algorithmOf(key any) (string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return "", fmt.Errorf("an RSA key of %d bits, at least %d are needed", key.N.BitLen(), minRSABits)
		}
		return algRS256, nil
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return "", errors.New("an elliptic curve other than P-256")
		}
		return algES256, nil
	case ed25519.PublicKey:
		return algEdDSA, nil
	}
	return "", errors.New("neither RSA, nor P-256, nor Ed25519")
}

// readKeyFile names the file in its errors once, and nothing of what is in it.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, withoutPath(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFileBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q: %w", path, withoutPath(err))
	case len(content) > maxKeyFileBytes:
		return nil, fmt.Errorf("%q: larger than %d bytes", path, maxKeyFileBytes)
	}
	return content, nil
}

func withoutPath(err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}
