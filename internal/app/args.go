package app

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/build/cache/remote"
	"slipway/internal/errs"
)

// Build arguments that ask for something of the builder itself. Those about the Dockerfile are dockerfile's and plan's.
const (
	inlineCacheArg   = "BUILDKIT_INLINE_CACHE"
	multiPlatformArg = "BUILDKIT_MULTI_PLATFORM"
)

// inlineCache adds the cache that BUILDKIT_INLINE_CACHE asks for, unless --cache-to names it already.
func (r *Build) inlineCache() error {
	want, _, err := r.boolArg(inlineCacheArg)
	if err != nil || !want {
		return err
	}
	if !slices.ContainsFunc(r.CacheTo, func(s remote.Spec) bool { return s.Type == remote.InImage }) {
		r.CacheTo = append(slices.Clip(r.CacheTo), remote.Spec{Type: remote.InImage})
	}
	return nil
}

// makesIndex says whether the result is an index: with several platforms, with statements that are listed beside the
// image, or when BUILDKIT_MULTI_PLATFORM wants the same form whatever the number of platforms is.
func (r *Build) makesIndex() (bool, error) {
	several := strings.Contains(r.Platform, ",")
	want, given, err := r.boolArg(multiPlatformArg)
	if err != nil {
		return false, err
	}
	if several && given && !want {
		return false, fmt.Errorf("build argument %s=%s does not allow for several platforms: %w", multiPlatformArg, r.Args[multiPlatformArg], errs.Invalid)
	}
	return several || want || r.Attest.Any() && r.Attest.Listed, nil
}

func (r *Build) boolArg(name string) (value, given bool, err error) {
	word, given := r.Args[name]
	if word == "" {
		return false, false, nil
	}
	if value, err = strconv.ParseBool(word); err != nil {
		return false, true, fmt.Errorf("build argument %s=%s: want true or false: %w", name, word, errs.Invalid)
	}
	return value, given, nil
}
