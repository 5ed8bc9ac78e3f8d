package plan

import (
	"maps"
	"slices"
	"strings"

	"slipway/internal/build/dockerfile"
)

// env is an ordered environment. Setting a name again moves it to the end, as in BuildKit's.
type env struct {
	keys   []string
	values map[string]string
	missed bool // somebody asked for a name that is not there
}

func newEnv(pairs ...string) *env {
	e := &env{values: map[string]string{}}
	for _, kv := range pairs {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
	return e
}

func (e *env) set(k, v string) {
	if _, ok := e.values[k]; ok {
		e.keys = slices.DeleteFunc(e.keys, func(s string) bool { return s == k })
	}
	e.keys = append(e.keys, k)
	e.values[k] = v
}

// Get and Keys make env a shell.EnvGetter.
func (e *env) Get(k string) (string, bool) {
	v, ok := e.values[k]
	e.missed = e.missed || !ok
	return v, ok
}

func (e *env) Keys() []string { return e.keys }

func (e *env) clone() *env {
	return &env{keys: slices.Clone(e.keys), values: maps.Clone(e.values)}
}

// pairs is the environment as a process gets it.
func (e *env) pairs() []string {
	list := make([]string, len(e.keys))
	for i, k := range e.keys {
		list[i] = k + "=" + e.values[k]
	}
	return list
}

// setPair sets a name in a config's Env, where a name keeps its place.
func setPair(pairs []string, k, v string) []string {
	for i, kv := range pairs {
		if name, _, _ := strings.Cut(kv, "="); name == k {
			pairs[i] = k + "=" + v
			return pairs
		}
	}
	return append(pairs, k+"="+v)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// proxyNames are build arguments that every RUN gets without an ARG, upper and lower case, in BuildKit's order.
func proxyNames() []string {
	return []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}
}

// proxyEnv is what build arguments add to every RUN outside its key.
func proxyEnv(args map[string]string) []string {
	var pairs []string
	for _, name := range proxyNames() {
		value := ""
		for _, k := range sortedKeys(args) {
			if strings.EqualFold(k, name) {
				value = args[k]
			}
		}
		if value != "" {
			pairs = append(pairs, name+"="+value, strings.ToLower(name)+"="+value)
		}
	}
	return pairs
}

// predefined says whether a build argument means something without an ARG: to slipway or, what concerns BuildKit's own
// displays (the name of a build, the advice that git prints), to nobody here.
func predefined(name string) bool {
	switch name {
	case "SOURCE_DATE_EPOCH", dockerfile.SyntaxArg, dockerfile.CheckArg, "BUILDKIT_BUILD_NAME", "BUILDKIT_CACHE_MOUNT_NS",
		"BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_GIT_ADVICE", "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM",
		"BUILDKIT_SANDBOX_HOSTNAME":
		return true
	}
	return slices.ContainsFunc(proxyNames(), func(p string) bool { return strings.EqualFold(p, name) })
}
