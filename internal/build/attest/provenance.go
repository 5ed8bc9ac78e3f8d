package attest

import (
	"time"

	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// buildType says how to read the parameters of a provenance: docs/supply-chain.md does.
const buildType = "urn:slipway:dockerfile-build:1"

// builderID names whoever vouches for the provenance: this program, wherever it runs.
const builderID = "urn:slipway:builder"

// Source is what a build context was checked out from.
type Source struct {
	URI    string // of the repository or the archive, without a user or a password; "" when it has no origin
	Commit string
	// Digest is that of an archive.
	Digest oci.Digest
	// Changed says that the files were not those of the commit.
	Changed bool
}

// Made is what is known of how an image was made.
type Made struct {
	Dockerfile     string // its path in the build context, or its name
	Text           []byte
	Target         string
	Args           map[string]string
	Labels         map[string]string
	Platform       oci.Platform
	Source         *Source
	Dependencies   []Dependency
	Began, Ended   time.Time
	BuilderVersion string
	// Secrets are the names of secrets that were given, never their content.
	Secrets []string
}

// Dependency is something that a build took from elsewhere.
type Dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// ImageDependency is a base image, or one that files were copied from.
func ImageDependency(r ref.Ref, p oci.Platform, d oci.Digest) Dependency {
	return Dependency{URI: ImageURL(r, p), Digest: digests(d)}
}

// FileDependency is a file that was fetched.
func FileDependency(url string, d oci.Digest) Dependency {
	return Dependency{URI: url, Digest: digests(d)}
}

// GitDependency is a commit.
func GitDependency(remote, commit string) Dependency {
	return Dependency{URI: "git+" + remote, Digest: map[string]string{"sha1": commit}}
}

// Provenance is the predicate of PredicateSLSA.
type Provenance struct {
	BuildDefinition struct {
		BuildType            string       `json:"buildType"`
		ExternalParameters   external     `json:"externalParameters"`
		InternalParameters   internal     `json:"internalParameters"`
		ResolvedDependencies []Dependency `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder    builder     `json:"builder"`
		Metadata   metadata    `json:"metadata"`
		Byproducts []byproduct `json:"byproducts,omitempty"`
	} `json:"runDetails"`
}

type external struct {
	Source  *source `json:"source,omitempty"`
	Request request `json:"request"`
}

type source struct {
	URI     string            `json:"uri,omitempty"`
	Digest  map[string]string `json:"digest,omitempty"`
	Changed bool              `json:"changed,omitempty"`
}

type request struct {
	Dockerfile string            `json:"dockerfile"`
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Secrets    []string          `json:"secrets,omitempty"`
}

type internal struct {
	Platform string `json:"platform"`
}

type builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

type metadata struct {
	StartedOn  time.Time `json:"startedOn"`
	FinishedOn time.Time `json:"finishedOn"`
}

type byproduct struct {
	Name      string `json:"name"`
	MediaType string `json:"mediaType"`
	Content   []byte `json:"content"`
}

// NewProvenance describes how an image was made. What a user may have meant to keep to himself, the values of arguments
// and the Dockerfile's text, is in it only in mode Max.
func NewProvenance(m Made, mode string) Provenance {
	var p Provenance
	d, run := &p.BuildDefinition, &p.RunDetails
	d.BuildType = buildType
	d.InternalParameters.Platform = oci.FormatPlatform(m.Platform)
	d.ResolvedDependencies = m.Dependencies
	d.ExternalParameters.Request = request{Dockerfile: m.Dockerfile, Target: m.Target}
	if s := m.Source; s != nil {
		d.ExternalParameters.Source = &source{URI: s.URI, Changed: s.Changed}
		switch {
		case s.Digest != "":
			d.ExternalParameters.Source.Digest = digests(s.Digest)
		case s.Commit != "":
			d.ExternalParameters.Source.Digest = map[string]string{"sha1": s.Commit}
		}
	}
	run.Builder.ID = builderID
	if m.BuilderVersion != "" {
		run.Builder.Version = map[string]string{"slipway": m.BuilderVersion}
	}
	run.Metadata = metadata{m.Began.UTC().Truncate(time.Second), m.Ended.UTC().Truncate(time.Second)}
	if mode == Max {
		r := &d.ExternalParameters.Request
		r.Args, r.Labels, r.Secrets = m.Args, m.Labels, m.Secrets
		run.Byproducts = []byproduct{{Name: m.Dockerfile, MediaType: "text/x-dockerfile", Content: m.Text}}
	}
	return p
}
