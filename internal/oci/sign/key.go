package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"slipway/internal/errs"
)

// Signer signs with a private key.
type Signer struct{ key crypto.Signer }

// Verifier verifies with a public key.
type Verifier struct{ key crypto.PublicKey }

// ReadSigner reads a private key in PEM: ECDSA, Ed25519 or RSA, as PKCS #8 or as openssl's EC PRIVATE KEY, or as cosign
// keeps it, encrypted. password is asked for one that is encrypted. A key that cannot be read is an errs.Invalid, a wrong
// password an errs.Denied; no error shows anything of either.
func ReadSigner(data []byte, password func() ([]byte, error)) (Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return Signer{}, fmt.Errorf("signing key: not in PEM: %w", errs.Invalid)
	}
	switch block.Type {
	case "PRIVATE KEY":
		return pkcs8(block.Bytes)
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return Signer{}, fmt.Errorf("signing key: %w", errs.Mark(err, errs.Invalid))
		}
		return Signer{key}, nil
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		secret, err := password()
		if err != nil {
			return Signer{}, err
		}
		der, err := encrypted.Decrypt(block.Bytes, secret)
		if err != nil {
			return Signer{}, fmt.Errorf("signing key: the password does not open it: %w", errs.Denied)
		}
		return pkcs8(der)
	case "PUBLIC KEY":
		return Signer{}, fmt.Errorf("signing key: it is a public key, which only verifies: %w", errs.Invalid)
	}
	return Signer{}, fmt.Errorf("signing key: %q is not supported: %w", block.Type, errs.Invalid)
}

func pkcs8(der []byte) (Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Signer{}, fmt.Errorf("signing key: %w", errs.Mark(err, errs.Invalid))
	}
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		return Signer{key}, nil
	case ed25519.PrivateKey:
		return Signer{key}, nil
	case *rsa.PrivateKey:
		return Signer{key}, nil
	}
	return Signer{}, fmt.Errorf("signing key: keys of type %T are not supported: %w", parsed, errs.Invalid)
}

// ReadVerifier reads a public key in PEM (PKIX).
func ReadVerifier(data []byte) (Verifier, error) {
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return Verifier{}, fmt.Errorf("public key: not in PEM: %w", errs.Invalid)
	case block.Type != "PUBLIC KEY":
		err := fmt.Errorf("public key: %q is none: %w", block.Type, errs.Invalid)
		return Verifier{}, errs.Hint(err, "openssl pkey -in KEY -pubout prints the public half of a key")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Verifier{}, fmt.Errorf("public key: %w", errs.Mark(err, errs.Invalid))
	}
	return Verifier{key}, nil
}

// Verifier verifies what the signer signs.
func (s Signer) Verifier() Verifier { return Verifier{s.key.Public()} }

// sign signs as cosign does: ECDSA and RSA (PKCS #1 v1.5) over the SHA-256 of the message, Ed25519 over the message.
func (s Signer) sign(message []byte) ([]byte, error) {
	if _, ok := s.key.(ed25519.PrivateKey); ok {
		return s.key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// verify says whether a signature is of the message and by the key.
func (v Verifier) verify(message, signature []byte) bool {
	sum := sha256.Sum256(message)
	switch key := v.key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, sum[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	}
	return false
}
