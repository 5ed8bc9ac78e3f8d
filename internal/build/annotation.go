package build

import (
	"fmt"
	"slices"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Level says what an annotation is attached to, in buildx's words.
type Level string

// Levels of an annotation.
const (
	OnManifest           Level = "manifest"            // the image's manifest, of each platform
	OnManifestDescriptor Level = "manifest-descriptor" // what points at a manifest: an entry of the index, or of a layout
	OnIndex              Level = "index"               // the index over several platforms
	OnIndexDescriptor    Level = "index-descriptor"    // what points at the index: an entry of a layout
)

func levels() []Level {
	return []Level{OnManifest, OnManifestDescriptor, OnIndex, OnIndexDescriptor}
}

// Annotation is a key and a value for one level.
type Annotation struct {
	Level      Level
	Platform   string // os/arch[/variant]; "": every one
	Key, Value string
}

// ParseAnnotation reads [LEVEL[,LEVEL…]:]KEY=VALUE, where a level may name the platform that it is for:
// manifest[linux/arm64]. Without a level it is the manifest's.
func ParseAnnotation(s string) ([]Annotation, error) {
	left, value, ok := strings.Cut(s, "=")
	words, key, leveled := strings.Cut(left, ":")
	if !leveled {
		words, key = string(OnManifest), left
	}
	if !ok || key == "" {
		return nil, fmt.Errorf("annotation %q: want [LEVEL:]KEY=VALUE: %w", s, errs.Invalid)
	}
	var list []Annotation
	for word := range strings.SplitSeq(words, ",") {
		a, err := parseLevel(word)
		if err != nil {
			return nil, fmt.Errorf("annotation %q: %w", s, err)
		}
		a.Key, a.Value = key, value
		list = append(list, a)
	}
	return list, nil
}

func parseLevel(word string) (Annotation, error) {
	name, rest, hasPlatform := strings.Cut(strings.TrimSpace(word), "[")
	a := Annotation{Level: Level(name)}
	if !slices.Contains(levels(), a.Level) {
		err := fmt.Errorf("level %q is not known: %w", name, errs.Invalid)
		return a, errs.Hint(err, "the levels are manifest, manifest-descriptor, index and index-descriptor")
	}
	if !hasPlatform {
		return a, nil
	}
	platform, closed := strings.CutSuffix(rest, "]")
	if !closed {
		return a, fmt.Errorf("%q has no closing bracket: %w", word, errs.Invalid)
	}
	if a.Level == OnIndex || a.Level == OnIndexDescriptor {
		return a, fmt.Errorf("an index is for all platforms, not for %s: %w", platform, errs.Invalid)
	}
	p, err := oci.ParsePlatform(platform)
	a.Platform = oci.FormatPlatform(p)
	return a, err
}

// Annotations are those of one level for a platform, nil when there are none. The last of several for a key counts.
func Annotations(all []Annotation, level Level, p oci.Platform) map[string]string {
	var m map[string]string
	for _, a := range all {
		if a.Level != level || !a.isFor(p) {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[a.Key] = a.Value
	}
	return m
}

func (a *Annotation) isFor(p oci.Platform) bool {
	if a.Platform == "" {
		return true
	}
	own, err := oci.ParsePlatform(a.Platform)
	return err == nil && oci.SamePlatform(own, p)
}

// CheckAnnotations refuses annotations that a build for these platforms has no place for: those of an index when it
// makes none, and those of a platform that it does not build for.
func CheckAnnotations(all []Annotation, platforms []oci.Platform) error {
	for _, a := range all {
		onIndex := a.Level == OnIndex || a.Level == OnIndexDescriptor
		if onIndex && len(platforms) == 1 {
			err := fmt.Errorf("annotation %s:%s: a build for one platform makes no index: %w", a.Level, a.Key, errs.Invalid)
			return errs.Hint(err, "name several platforms with --platform, or annotate the manifest")
		}
		if !slices.ContainsFunc(platforms, a.isFor) {
			return fmt.Errorf("annotation %s[%s]:%s: nothing is built for that platform: %w", a.Level, a.Platform, a.Key, errs.Invalid)
		}
	}
	return nil
}
