package sign_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
	"slipway/internal/oci/sign"
)

// place is a repository in a registry, with a manifest.
type place struct {
	client *registry.Client
	ref    ref.Ref
	digest oci.Digest
}

func newPlace(t *testing.T) place {
	t.Helper()
	s, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	r, err := ref.Parse(s.Addr() + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	p := place{client: registry.New(registry.Options{}), ref: r}
	t.Cleanup(p.client.Close)
	p.digest = p.push(t, "{}")
	return p
}

// push makes the tag name an image with some config.
func (p place) push(t *testing.T, config string) oci.Digest {
	t.Helper()
	desc := oci.Describe(oci.MediaTypeConfig, []byte(config))
	if _, err := p.client.PushBlob(t.Context(), p.ref, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(config[offset:])), nil
		},
	}); err != nil {
		t.Fatal(err)
	}
	manifest, err := oci.Marshal(oci.NewManifest(desc, []oci.Descriptor{}, nil))
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := p.client.PushManifest(t.Context(), p.ref, oci.MediaTypeManifest, manifest)
	if err != nil {
		t.Fatal(err)
	}
	return pushed.Digest
}

// signers are keys of every kind.
func signers(t *testing.T) map[string]sign.Signer {
	t.Helper()
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, err2 := ed25519.GenerateKey(rand.Reader)
	rs, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	all := map[string]sign.Signer{}
	for name, key := range map[string]any{"ECDSA": ec, "Ed25519": ed, "RSA": rs} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = read(t, "PRIVATE KEY", der)
	}
	der, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	all["openssl's ECDSA"] = read(t, "EC PRIVATE KEY", der)
	return all
}

func read(t *testing.T, kind string, der []byte) sign.Signer {
	t.Helper()
	s, err := sign.ReadSigner(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	for name, s := range signers(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			if _, err := sign.Verify(t.Context(), p.client, p.ref, p.digest, s.Verifier()); !errors.Is(err, errs.NotFound) {
				t.Errorf("Verify before Sign = %v, want not found", err)
			}
			for range 2 { // the second adds nothing
				if err := sign.Sign(t.Context(), p.client, p.ref, p.digest, s); err != nil {
					t.Fatal(err)
				}
			}
			got, err := sign.Verify(t.Context(), p.client, p.ref, p.digest, s.Verifier())
			if err != nil {
				t.Fatal(err)
			}
			var want sign.Payload
			want.Critical.Identity.Reference = p.ref.Name()
			want.Critical.Image.Digest = p.digest
			want.Critical.Type = "cosign container image signature"
			if diff := cmp.Diff([]sign.Payload{want}, got); diff != "" {
				t.Errorf("payloads mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSeveralKeys signs with several keys: each finds its own signature, another key none.
func TestSeveralKeys(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	all := signers(t)
	delete(all, "openssl's ECDSA") // the same as ECDSA
	stranger := all["RSA"]
	delete(all, "RSA")
	for _, s := range all {
		if err := sign.Sign(t.Context(), p.client, p.ref, p.digest, s); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range all {
		if got, err := sign.Verify(t.Context(), p.client, p.ref, p.digest, s.Verifier()); err != nil || len(got) != 1 {
			t.Errorf("%s: %d payloads, %v", name, len(got), err)
		}
	}
	if _, err := sign.Verify(t.Context(), p.client, p.ref, p.digest, stranger.Verifier()); !errors.Is(err, errs.Denied) {
		t.Errorf("Verify with another key = %v, want denied", err)
	}
}

// TestSignatureOfAnotherImage puts one image's signatures beside another.
func TestSignatureOfAnotherImage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := signers(t)["ECDSA"]
	if err := sign.Sign(t.Context(), p.client, p.ref, p.digest, s); err != nil {
		t.Fatal(err)
	}
	_, signatures, err := p.client.Resolve(t.Context(), sign.Tag(p.ref, p.digest))
	if err != nil {
		t.Fatal(err)
	}
	other := p.push(t, `{"os":"linux"}`)
	if _, err := p.client.PushManifest(t.Context(), sign.Tag(p.ref, other), oci.MediaTypeManifest, signatures); err != nil {
		t.Fatal(err)
	}
	if got, err := sign.Verify(t.Context(), p.client, p.ref, other, s.Verifier()); !errors.Is(err, errs.Denied) {
		t.Errorf("Verify = %v, %v, want denied", got, err)
	}
}

// TestCosign verifies what cosign's library signed, with the key as cosign keeps it (testdata/README.md).
func TestCosign(t *testing.T) {
	t.Parallel()
	file := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	verifier, err := sign.ReadVerifier(file("cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	var payload sign.Payload
	if err := json.Unmarshal(file("payload.json"), &payload); err != nil {
		t.Fatal(err)
	}
	desc := oci.Describe("application/vnd.dev.cosign.simplesigning.v1+json", file("payload.json"))
	desc.Annotations = map[string]string{"dev.cosignproject.cosign/signature": string(file("payload.sig"))}
	p.pushSignatures(t, payload.Critical.Image.Digest, desc, file("payload.json"))
	got, err := sign.Verify(t.Context(), p.client, p.ref, payload.Critical.Image.Digest, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]sign.Payload{payload}, got); diff != "" {
		t.Errorf("payloads mismatch (-want +got):\n%s", diff)
	}

	password := func(p string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(p), nil } }
	if _, err := sign.ReadSigner(file("cosign.key"), password("wrong")); !errors.Is(err, errs.Denied) {
		t.Errorf("ReadSigner with a wrong password = %v, want denied", err)
	}
	signer, err := sign.ReadSigner(file("cosign.key"), password("pass"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sign.Sign(t.Context(), p.client, p.ref, p.digest, signer); err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Verify(t.Context(), p.client, p.ref, p.digest, verifier); err != nil {
		t.Error(err)
	}
}

func (p place) pushSignatures(t *testing.T, of oci.Digest, layer oci.Descriptor, payload []byte) {
	t.Helper()
	tag := sign.Tag(p.ref, of)
	for _, data := range [][]byte{payload, []byte("{}")} {
		if _, err := p.client.PushBlob(t.Context(), tag, registry.Source{
			Descriptor: func(context.Context) (oci.Descriptor, error) { return oci.Describe("", data), nil },
			Open: func(offset int64) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(string(data[offset:]))), nil
			},
		}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := oci.Marshal(oci.NewManifest(oci.Describe(oci.MediaTypeConfig, []byte("{}")), []oci.Descriptor{layer}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.PushManifest(t.Context(), tag, oci.MediaTypeManifest, m); err != nil {
		t.Fatal(err)
	}
}

func TestReadKeyRefuses(t *testing.T) {
	t.Parallel()
	bad := map[string][]byte{
		"nothing": nil,
		"no PEM":  []byte("hello"),
		"garbage": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"EC":      pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")}),
		"public":  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
		"other":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
	}
	for name, data := range bad {
		if _, err := sign.ReadSigner(data, nil); !errors.Is(err, errs.Invalid) {
			t.Errorf("ReadSigner of %s = %v, want invalid", name, err)
		}
		if _, err := sign.ReadVerifier(data); !errors.Is(err, errs.Invalid) {
			t.Errorf("ReadVerifier of %s = %v, want invalid", name, err)
		}
	}
}
