package oci

import (
	"encoding/json"
	"fmt"
	"strings"

	"slipway/internal/errs"
)

// ParsePlatform reads os/arch[/variant].
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return Platform{}, fmt.Errorf("platform %q: want os/arch or os/arch/variant: %w", s, errs.Invalid)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// FormatPlatform prints a platform as os/arch[/variant].
func FormatPlatform(p Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// SamePlatform compares platforms as containerd does: a variant that an architecture implies is equal to none.
func SamePlatform(a, b Platform) bool {
	return a.OS == b.OS && a.Architecture == b.Architecture && impliedVariant(a) == impliedVariant(b)
}

func impliedVariant(p Platform) string {
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		return ""
	case p.Architecture == "arm" && p.Variant == "":
		return "v7"
	default:
		return p.Variant
	}
}

// Choose picks a platform's manifest from an index. That there is none is errs.NotFound, with a hint at what there is;
// an index that cannot be read is errs.Corrupt.
func Choose(rawIndex []byte, p Platform) (Descriptor, error) {
	var index Index
	if err := json.Unmarshal(rawIndex, &index); err != nil {
		return Descriptor{}, fmt.Errorf("read index: %w", errs.Mark(err, errs.Corrupt))
	}
	var have []string
	for _, d := range index.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" { // attestations of BuildKit are for "unknown"
			continue
		}
		if SamePlatform(*d.Platform, p) {
			return d, nil
		}
		have = append(have, FormatPlatform(*d.Platform))
	}
	err := fmt.Errorf("no image for %s: %w", FormatPlatform(p), errs.NotFound)
	return Descriptor{}, errs.Hint(err, "it is there for "+strings.Join(have, ", "))
}

// DescribeManifest returns the descriptor of a manifest or index whose media type only its content can tell, as that of
// a blob in a store.
func DescribeManifest(raw []byte) Descriptor {
	var probe struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return Describe("", raw)
	}
	if probe.MediaType == "" {
		probe.MediaType = MediaTypeManifest
		if probe.Manifests != nil {
			probe.MediaType = MediaTypeIndex
		}
	}
	return Describe(probe.MediaType, raw)
}
