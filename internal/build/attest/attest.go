// Package attest says how an image was made and what is in it, in the forms that others read: the provenance of SLSA
// v1, and a bill of materials (SBOM) in SPDX or CycloneDX.
//
// Each is the predicate of an in-toto statement about the image's manifest, kept beside the image as an artifact that
// refers to it (OCI image-spec, manifest.md §subject). The image itself stays as it is: no index is put around it, and
// its digest does not depend on what is said of it. Whoever wants it as BuildKit has it puts an Entry into the index.
//
//	packages, err := attest.Scan(ctx, view.Walk(ctx, "."))
//	s, err := attest.New(manifest, names, attest.PredicateSPDX, document)
//	a, err := attest.Artifact(manifest, s)
//
// Package attest reads files that it is given and writes none.
package attest

import (
	"encoding/json"
	"fmt"
	"strings"

	"slipway/internal/build"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// The types of predicate.
const (
	PredicateSLSA      = "https://slsa.dev/provenance/v1"
	PredicateSPDX      = "https://spdx.dev/Document"
	PredicateCycloneDX = "https://cyclonedx.org/bom"
)

const (
	// mediaType is that of a statement, and the type of the artifact that holds one.
	mediaType = "application/vnd.in-toto+json"
	// annotation of an artifact says what its statement is about, so that a list of referrers tells.
	annotation    = "in-toto.io/predicate-type"
	statementType = "https://in-toto.io/Statement/v1"
)

// Modes of provenance.
const (
	Min = "min" // sources, base images, times
	Max = "max" // also arguments, labels and the Dockerfile
)

// Formats of bills of materials.
const (
	SPDX      = "spdx"
	CycloneDX = "cyclonedx"
)

// Options say what to attest. The zero value is nothing.
type Options struct {
	Provenance string // Min, Max or "" for none
	SBOM       string // SPDX, CycloneDX or "" for none
	// Listed puts the statements into the index around the image instead of beside it.
	Listed bool
	// Source is what the build context was checked out from, if that is known.
	Source *Source
	// Dockerfile is its path in the build context, or its name: no path of this machine.
	Dockerfile string
	// Version is slipway's own.
	Version string
}

// Any says whether there is anything to attest.
func (o *Options) Any() bool { return o.Provenance != "" || o.SBOM != "" }

// subject is what a statement is about.
type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// New returns the statement about a manifest. names are what the manifest is called; without any it is called "_".
func New(manifest oci.Descriptor, names []string, predicateType string, predicate any) (build.Statement, error) {
	data, err := oci.Marshal(predicate)
	if err != nil {
		return build.Statement{}, err
	}
	s := statement{Type: statementType, PredicateType: predicateType, Predicate: data}
	if len(names) == 0 {
		names = []string{"_"}
	}
	for _, n := range names {
		s.Subject = append(s.Subject, subject{n, digests(manifest.Digest)})
	}
	if data, err = oci.Marshal(s); err != nil {
		return build.Statement{}, err
	}
	layer := oci.Describe(mediaType, data)
	layer.Annotations = map[string]string{annotation: predicateType}
	return build.Statement{Layer: layer, Data: data}, nil
}

// Artifact wraps a statement for itself, with the image as its subject.
func Artifact(manifest oci.Descriptor, s build.Statement) (build.Attached, error) {
	return wrap([]build.Statement{s}, func(m *oci.Manifest, entry *oci.Descriptor) {
		m.ArtifactType, m.Annotations = mediaType, s.Layer.Annotations
		m.Subject = &oci.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: manifest.Size}
		entry.ArtifactType, entry.Annotations = m.ArtifactType, m.Annotations
	})
}

// Entry wraps all statements about an image for the index around it, as BuildKit does (its docs/attestations).
func Entry(manifest oci.Descriptor, list []build.Statement) (build.Attached, error) {
	a, err := wrap(list, func(_ *oci.Manifest, entry *oci.Descriptor) {
		entry.Platform = &oci.Platform{OS: unknown, Architecture: unknown}
		entry.Annotations = map[string]string{referenceDigest: manifest.Digest.String(), referenceType: "attestation-manifest"}
	})
	a.Listed = true
	return a, err
}

// unknown is the platform of what runs nowhere.
const unknown = "unknown"

// Annotations of an entry, which say what it is and which manifest of the index it is about.
const (
	referenceDigest = "vnd.docker.reference.digest"
	referenceType   = "vnd.docker.reference.type"
)

// wrap makes a manifest of statements; finish adds to it, and to its descriptor. Its config is one of an image, as
// BuildKit's attestations and cosign's signatures have it: some registries refuse the specification's empty config
// ("unknown manifest class").
func wrap(list []build.Statement, finish func(m *oci.Manifest, entry *oci.Descriptor)) (build.Attached, error) {
	a := build.Attached{Statements: list}
	var layers []oci.Descriptor
	var image oci.Image
	image.OS, image.Architecture, image.RootFS.Type = unknown, unknown, "layers"
	for _, s := range list {
		layers = append(layers, s.Layer)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, s.Layer.Digest)
	}
	var err error
	if a.RawConfig, err = oci.Marshal(image); err != nil {
		return a, err
	}
	m := oci.NewManifest(oci.Describe(oci.MediaTypeConfig, a.RawConfig), layers, nil)
	var entry oci.Descriptor
	finish(&m, &entry)
	if a.Raw, err = oci.Marshal(m); err != nil {
		return a, err
	}
	described := oci.Describe(oci.MediaTypeManifest, a.Raw)
	entry.MediaType, entry.Digest, entry.Size = described.MediaType, described.Digest, described.Size
	a.Manifest, a.Config = entry, m.Config
	return a, nil
}

// digests are a digest as in-toto has it.
func digests(d oci.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// ImageURL is the package URL of an image, as BuildKit writes it: pkg:docker/[REGISTRY/]REPOSITORY@TAG?platform=OS/ARCH.
func ImageURL(r ref.Ref, p oci.Platform) string {
	name := strings.TrimPrefix(strings.TrimPrefix(r.Name(), "docker.io/"), "library/")
	url := "pkg:docker/" + escapePath(name)
	if r.Tag() != "" {
		url += "@" + escape(r.Tag())
	}
	if p.OS != "" {
		url += "?platform=" + escape(oci.FormatPlatform(p))
	}
	return url
}

// escape writes part of a package URL (purl-spec §character encoding).
func escape(s string) string {
	var out []byte
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_', c == '~', c == ':':
			out = append(out, c)
		default:
			out = fmt.Appendf(out, "%%%02X", c)
		}
	}
	return string(out)
}
