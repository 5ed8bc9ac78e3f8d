// Package sign signs images with a key, and verifies such signatures, in the format of cosign: what one of them signs the
// other verifies.
//
// A signature is over a payload, a small JSON document that names a manifest by its digest. Both are a layer of a
// manifest under a tag beside the image, sha256-DIGEST.sig, which collects the signatures of all keys.
//
//	err := sign.Sign(ctx, client, r, digest, signer)
//	payloads, err := sign.Verify(ctx, client, r, digest, verifier)
//
// There is no transparency log, no certificate and no time: a signature says that somebody had the key. cosign verifies
// it with --key and --insecure-ignore-tlog.
package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

const (
	// mediaType is that of a payload (cosign specs/SIGNATURE_SPEC.md).
	mediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	// annotation of a payload's descriptor holds the signature, in base64.
	annotation = "dev.cosignproject.cosign/signature"
	// payloadType says inside a payload what it is.
	payloadType = "cosign container image signature"

	maxSignatures = 100
	maxPayload    = 64 << 10
)

// Payload is what is signed (containers/image docs/atomic-signature.md).
type Payload struct {
	Critical struct {
		Identity struct {
			// Reference is the repository that the image was signed for.
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest oci.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// newPayload is the payload that signs a manifest of a repository.
func newPayload(r ref.Ref, d oci.Digest) ([]byte, error) {
	var p Payload
	p.Critical.Identity.Reference = r.Name()
	p.Critical.Image.Digest = d
	p.Critical.Type = payloadType
	return oci.Marshal(p)
}

// Tag is the reference that the signatures of a manifest are kept under.
func Tag(r ref.Ref, d oci.Digest) ref.Ref {
	return r.WithDigest("").WithTag(d.Algorithm().String() + "-" + d.Encoded() + ".sig")
}

// Sign signs the manifest with digest d in r's repository, beside the signatures that it has. One that the same key made
// before is left as it is. Two that sign at once can lose one of the signatures, as with cosign.
func Sign(ctx context.Context, c *registry.Client, r ref.Ref, d oci.Digest, s Signer) error {
	if err := signOne(ctx, c, r, d, s); err != nil {
		return fmt.Errorf("sign %s@%s: %w", r.Name(), d, err)
	}
	return nil
}

func signOne(ctx context.Context, c *registry.Client, r ref.Ref, d oci.Digest, s Signer) error {
	tag := Tag(r, d)
	m, err := read(ctx, c, tag)
	if err != nil && !errors.Is(err, errs.NotFound) {
		return err
	}
	payload, err := newPayload(r, d)
	if err != nil {
		return err
	}
	desc := oci.Describe(mediaType, payload)
	for _, l := range m.Layers {
		if l.Digest == desc.Digest && s.Verifier().verify(payload, signatureOf(l)) {
			return nil
		}
	}
	signature, err := s.sign(payload)
	if err != nil {
		return err
	}
	desc.Annotations = map[string]string{annotation: base64.StdEncoding.EncodeToString(signature)}
	return write(ctx, c, tag, append(m.Layers, desc), payload)
}

// read returns the manifest of signatures, or errs.NotFound.
func read(ctx context.Context, c *registry.Client, tag ref.Ref) (oci.Manifest, error) {
	var m oci.Manifest
	_, raw, err := c.Resolve(ctx, tag)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, errs.Mark(fmt.Errorf("manifest of signatures: %w", err), errs.Corrupt)
	}
	return m, nil
}

func signatureOf(l oci.Descriptor) []byte {
	signature, err := base64.StdEncoding.DecodeString(l.Annotations[annotation])
	if err != nil {
		return nil // which verifies nothing
	}
	return signature
}

// write writes a manifest of signatures. Its config is one of an image, as cosign's is: registries that know of nothing
// else take it.
func write(ctx context.Context, c *registry.Client, tag ref.Ref, layers []oci.Descriptor, payload []byte) error {
	var image oci.Image
	image.Created = &time.Time{}
	image.RootFS.Type = "layers"
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest)
		image.History = append(image.History, oci.History{Created: &time.Time{}})
	}
	config, err := oci.Marshal(image)
	if err != nil {
		return err
	}
	for _, blob := range [][]byte{payload, config} {
		if _, err := c.PushBlob(ctx, tag, source(blob)); err != nil {
			return err
		}
	}
	manifest, err := oci.Marshal(oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), layers, nil))
	if err != nil {
		return err
	}
	_, err = c.PushManifest(ctx, tag, oci.MediaTypeManifest, manifest)
	return err
}

func source(data []byte) registry.Source {
	return registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return oci.Describe("", data), nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	}
}

// Verify returns the payloads by which the key of v signed the manifest with digest d in r's repository; there is at
// least one. The error is of kind errs.NotFound when nobody signed it, of kind errs.Denied when the key did not.
func Verify(ctx context.Context, c *registry.Client, r ref.Ref, d oci.Digest, v Verifier) ([]Payload, error) {
	payloads, err := verify(ctx, c, r, d, v)
	if err != nil {
		return nil, fmt.Errorf("verify %s@%s: %w", r.Name(), d, err)
	}
	return payloads, nil
}

func verify(ctx context.Context, c *registry.Client, r ref.Ref, d oci.Digest, v Verifier) ([]Payload, error) {
	tag := Tag(r, d)
	m, err := read(ctx, c, tag)
	if errors.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("it is not signed: %w", err)
	}
	if err != nil {
		return nil, err
	}
	var payloads []Payload
	layers := slices.DeleteFunc(m.Layers, func(l oci.Descriptor) bool { return l.MediaType != mediaType })
	for _, l := range layers[:min(len(layers), maxSignatures)] {
		p, ok, err := verifyOne(ctx, c, tag, d, l, v)
		if err != nil {
			return nil, err
		}
		if ok {
			payloads = append(payloads, p)
		}
	}
	if len(payloads) == 0 {
		return nil, errs.Mark(fmt.Errorf("none of its %d signatures is by this key", len(layers)), errs.Denied)
	}
	return payloads, nil
}

// verifyOne says whether a layer is a signature of the manifest by the key. A signature that is not is no error: others
// sign as well.
func verifyOne(ctx context.Context, c *registry.Client, tag ref.Ref, d oci.Digest, l oci.Descriptor, v Verifier) (p Payload, ok bool, err error) {
	if l.Size > maxPayload {
		return p, false, nil
	}
	data, err := fetch(ctx, c, tag, l)
	if err != nil {
		return p, false, err
	}
	if !v.verify(data, signatureOf(l)) {
		return p, false, nil
	}
	// Only now is it more than a stranger's bytes.
	if err := json.Unmarshal(data, &p); err != nil {
		return p, false, nil //nolint:nilerr // the key signed something else
	}
	return p, p.Critical.Type == payloadType && p.Critical.Image.Digest == d, nil
}

// fetch reads a payload, which the client holds against its digest.
func fetch(ctx context.Context, c *registry.Client, tag ref.Ref, l oci.Descriptor) (_ []byte, err error) {
	if err := l.Digest.Validate(); err != nil {
		return nil, errs.Mark(fmt.Errorf("payload: %w", err), errs.Corrupt)
	}
	r, err := c.Blob(ctx, tag, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(io.LimitReader(r, maxPayload))
}
