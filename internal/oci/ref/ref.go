// Package ref reads and prints image references: the names under which people and Dockerfiles mean images.
//
// A reference is registry/repository[:tag][@digest]. A tag moves, a digest does not; when a reference has both, the
// digest decides and the tag is there for people. Short forms mean what they mean to docker:
//
//	alpine               docker.io/library/alpine:latest
//	grafana/grafana:11   docker.io/grafana/grafana:11
//	localhost/app        localhost/app:latest
//
// The grammar is that of github.com/distribution/reference, parsed by hand: its regular expressions are compiled when a
// program starts and cost half a millisecond, whether a reference is read or not. Tests hold the two against each other.
//
// Package ref asks no registry anything.
package ref

import (
	"fmt"
	"strings"

	"slipway/internal/oci"
)

const (
	dockerHub       = "docker.io"
	legacyDockerHub = "index.docker.io"
	officialPrefix  = "library/"
	defaultTag      = "latest"
)

// Ref is a complete image reference. It is a value: comparable, usable as a map key, never changed. The zero Ref names
// nothing; Parse makes all others.
type Ref struct {
	registry   string
	repository string
	tag        string
	digest     oci.Digest
}

// Registry returns the host[:port] of the reference as it was written; "docker.io" for Docker Hub.
func (r Ref) Registry() string { return r.registry }

// Repository returns the path inside the registry, such as "library/alpine".
func (r Ref) Repository() string { return r.repository }

// Tag returns the tag, or "" when the reference has a digest and no tag.
func (r Ref) Tag() string { return r.tag }

// Digest returns the digest, or "" when the reference has a tag alone.
func (r Ref) Digest() oci.Digest { return r.digest }

// Name returns registry/repository, without tag or digest.
func (r Ref) Name() string {
	if r.registry == "" {
		return r.repository
	}
	return r.registry + "/" + r.repository
}

// String returns the full form, registry/repository[:tag][@digest]. Parse reads it back to an equal Ref.
func (r Ref) String() string { return r.Name() + r.suffix() }

// Familiar returns the form that docker shows to people: without "docker.io/" and without "library/". Parse reads it
// back to an equal Ref: where the short form would mean another image, Familiar keeps the full one.
func (r Ref) Familiar() string {
	if r.registry != dockerHub {
		return r.String()
	}
	if short, ok := strings.CutPrefix(r.repository, officialPrefix); ok && !strings.Contains(short, "/") {
		return short + r.suffix()
	}
	if registry, _ := splitRegistry(r.repository); registry != dockerHub {
		return r.String()
	}
	return r.repository + r.suffix()
}

// WithTag returns the reference with another tag and the same digest; "" takes the tag away. The tag must be valid,
// as one that comes from Parse or ValidTag is.
func (r Ref) WithTag(tag string) Ref {
	r.tag = tag
	return r
}

// WithDigest returns the reference with another digest and the same tag; "" takes the digest away.
func (r Ref) WithDigest(d oci.Digest) Ref {
	r.digest = d
	return r
}

// In returns the same tag and digest in another place, such as a mirror's.
func (r Ref) In(registry, repository string) Ref {
	r.registry, r.repository = registry, repository
	return r
}

func (r Ref) suffix() string {
	var s string
	if r.tag != "" {
		s = ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + string(r.digest)
	}
	return s
}

// MarshalText returns String, so that a Ref is a plain string in JSON.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses what MarshalText wrote.
func (r *Ref) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Ref{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return fmt.Errorf("decode reference: %w", err)
	}
	*r = parsed
	return nil
}
