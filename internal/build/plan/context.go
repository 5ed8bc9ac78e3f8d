package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"slipway/internal/build/dockerfile"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// Context is what the name of a build context stands for.
type Context struct {
	// Kind is FromContext for files, FromImage for an image, FromScratch for nothing.
	Kind SourceKind
	// Ref is the image's reference, normalized.
	Ref string
	// Held says that the image is in no registry: Need.Context says where it is then.
	Held bool
}

// platformMark stands between the name of a context and the platform that it is for.
const platformMark = "::"

// ContextName returns the key under which Options.Contexts has a context that the user calls NAME or NAME::PLATFORM. Names
// are those of images: busybox, busybox:latest and docker.io/library/busybox are the same one.
func ContextName(word string) (string, error) {
	word, platform, hasPlatform := strings.Cut(word, platformMark)
	name, ok := contextName(word)
	if !ok {
		return "", fmt.Errorf("build context %q: a name is that of a stage or an image: %w", word, errs.Invalid)
	}
	if reserved(name) {
		return "", fmt.Errorf("build context %q: the name is reserved: %w", word, errs.Invalid)
	}
	if !hasPlatform {
		return name, nil
	}
	p, err := oci.ParsePlatform(platform)
	if err != nil {
		return "", fmt.Errorf("build context %s: %w", name, err)
	}
	return contextKey(name, p), nil
}

func contextName(word string) (string, bool) {
	r, err := ref.Parse(word)
	if err != nil {
		return "", false
	}
	return strings.TrimSuffix(r.Familiar(), ":latest"), true
}

func contextKey(name string, p oci.Platform) string {
	return name + platformMark + oci.FormatPlatform(normalizePlatform(p))
}

// reserved says whether a name means something already: no files, and the main context.
func reserved(name string) bool {
	return strings.EqualFold(name, scratch) || strings.EqualFold(name, "context")
}

// context finds what a name stands for if it is that of a build context: one for the platform, or for all.
func (p *planner) context(word string, platform oci.Platform) (source, bool) {
	if len(p.opts.Contexts) == 0 || reserved(word) {
		return source{}, false
	}
	name, ok := contextName(word)
	if !ok {
		return source{}, false // whoever reads it as an image says what is wrong
	}
	p.sought[name] = struct{}{}
	key := contextKey(name, platform)
	c, ok := p.opts.Contexts[key]
	if !ok {
		key = name
		c, ok = p.opts.Contexts[key]
	}
	if !ok {
		return source{}, false
	}
	from := source{kind: c.Kind, name: word, context: key, platform: platform}
	if c.Kind == FromImage {
		from.need = Need{Ref: c.Ref, Platform: oci.FormatPlatform(platform)}
		if c.Held {
			from.need.Context = key
		}
	}
	return from, true
}

// unusedContexts warns about names that nothing in the file has, in whatever stage.
func (p *planner) unusedContexts() {
	unused := map[string]struct{}{}
	for key := range p.opts.Contexts {
		name, _, _ := strings.Cut(key, platformMark)
		if _, ok := p.sought[name]; !ok {
			unused[name] = struct{}{}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unused)) {
		p.warnings = append(p.warnings, dockerfile.Warning{
			File: p.file.Name,
			Msg:  "the build context " + name + " was not used: no FROM, no --from and no mount names it",
		})
	}
}
