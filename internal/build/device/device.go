// Package device finds the devices that RUN --device asks for: those that CDI specs of this machine describe.
//
// A CDI spec is a file in /etc/cdi or /var/run/cdi that says, by name, what a device changes around a process: nodes in
// /dev, mounts of drivers, variables. A name is vendor.com/class=name; vendor.com/class is its kind. As in BuildKit a
// RUN may ask for a name, for a kind (its first device), for kind=* (all of a kind), or for a class that an annotation of
// the spec gives.
//
//	store := device.Open(nil)
//	names, err := store.Find("vendor.com/gpu=0")
//	edits, err := store.Edits(names, uid, gid)
//
// Who may use a device is not decided here. What a spec asks for and a sandbox cannot do is refused: hooks, network
// devices, nodes that may be read but not written to.
package device

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"slipway/internal/errs"
	"slipway/internal/sandbox"
)

// Annotations of specs and of their devices that BuildKit has given a meaning.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// DefaultDirs are where CDI specs are, those in later folders over those in earlier ones.
func DefaultDirs() []string { return []string{cdi.DefaultStaticDir, cdi.DefaultDynamicDir} }

// Store knows the devices of this machine, as the specs say at its first use. It may be used by several goroutines.
type Store struct {
	dirs []string

	mu    sync.Mutex // the library writes into what it has read
	cache *cdi.Cache
}

// Open returns a Store over folders of CDI specs. Default: DefaultDirs.
func Open(dirs []string) *Store {
	if len(dirs) == 0 {
		dirs = DefaultDirs()
	}
	return &Store{dirs: dirs}
}

// devices reads the specs once. Callers hold mu.
func (s *Store) devices() (*cdi.Cache, error) {
	if s.cache == nil {
		cache, err := cdi.NewCache(cdi.WithSpecDirs(s.dirs...), cdi.WithAutoRefresh(false))
		if err != nil {
			return nil, fmt.Errorf("read CDI specs: %w", err)
		}
		s.cache = cache
	}
	return s.cache, nil
}

// Find returns the full names of the devices that a name means, none when no spec describes one.
func (s *Store) Find(name string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cache, err := s.devices()
	if err != nil {
		return nil, err
	}
	all := cache.ListDevices()
	slices.Sort(all)
	kind, device, _ := strings.Cut(name, "=")
	var found []string
	if vendor, _ := parser.ParseQualifier(kind); vendor != "" {
		for _, d := range all {
			if ofKind := strings.HasPrefix(d, kind+"="); d == name || ofKind && (device == "*" || device == "" && len(found) == 0) {
				found = append(found, d)
			}
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	for _, d := range all {
		if class := annotation(cache.GetDevice(d), classAnnotation); class != "" && class == name {
			found = append(found, d)
		}
	}
	return found, nil
}

// Missing is the error of a name that no spec describes, with what is wrong with the specs that there are.
func (s *Store) Missing(name string) error {
	err := fmt.Errorf("device %q is described by no CDI spec in %s: %w", name, strings.Join(s.dirs, " or "), errs.NotFound)
	s.mu.Lock()
	defer s.mu.Unlock()
	cache, failure := s.devices()
	if failure != nil {
		return errors.Join(err, failure)
	}
	broken := cache.GetErrors()
	for _, file := range slices.Sorted(mapKeys(broken)) {
		err = fmt.Errorf("%w; %s cannot be read: %w", err, file, errors.Join(broken[file]...))
	}
	return err
}

func mapKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// AutoAllowed says whether the spec of a device, by its full name, grants it to every build.
func (s *Store) AutoAllowed(name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cache, err := s.devices()
	if err != nil {
		return false, err
	}
	word := annotation(cache.GetDevice(name), autoAllowAnnotation)
	if word == "" {
		return false, nil
	}
	allowed, err := strconv.ParseBool(word)
	if err != nil {
		return false, fmt.Errorf("device %s: annotation %s: %w", name, autoAllowAnnotation, errs.Mark(err, errs.Invalid))
	}
	return allowed, nil
}

// annotation is a device's, else its spec's.
func annotation(d *cdi.Device, name string) string {
	if d == nil {
		return ""
	}
	return cmp.Or(d.Annotations[name], d.GetSpec().Annotations[name])
}

// Edits are what devices change around a process.
type Edits struct {
	Nodes  []sandbox.Device
	Mounts []sandbox.Mount
	Env    []string // KEY=value
	Groups []uint32
}

// Edits returns what devices, by their full names, change around a process of a user. Nodes without an owner belong to
// that user.
func (s *Store) Edits(names []string, uid, gid uint32) (Edits, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cache, err := s.devices()
	if err != nil {
		return Edits{}, err
	}
	spec := &specs.Spec{Process: &specs.Process{User: specs.User{UID: uid, GID: gid}}}
	if _, err := cache.InjectDevices(spec, names...); err != nil {
		return Edits{}, fmt.Errorf("devices %s: %w", strings.Join(names, ", "), errs.Mark(err, errs.Unavailable))
	}
	edits, err := translate(spec, sources(cache, names))
	if err != nil {
		return Edits{}, fmt.Errorf("devices %s: %w", strings.Join(names, ", "), errs.Mark(err, errs.Invalid))
	}
	return edits, nil
}

// sources are the machine's nodes by their paths inside, which an OCI spec does not say.
func sources(cache *cdi.Cache, names []string) map[string]string {
	paths := map[string]string{}
	for _, name := range names {
		d := cache.GetDevice(name)
		for _, n := range slices.Concat(d.GetSpec().ContainerEdits.DeviceNodes, d.ContainerEdits.DeviceNodes) {
			paths[n.Path] = cmp.Or(n.HostPath, n.Path)
		}
	}
	return paths
}
