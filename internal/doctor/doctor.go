// Package doctor looks at a machine and says what slipway can do on it, and what to do about the rest.
//
// A Finding is one thing looked at. Builds run unless one is Broken; what is Missing costs a feature that a build may
// not need. Examine leaves nothing behind: what it tries, it tries in a temporary folder beside slipway's state, so
// that the file system is the one that builds will use.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/isolation"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/sandbox"
)

// State is how a finding turned out.
type State string

// States of a finding.
const (
	OK      State = "ok"
	Missing State = "missing" // builds run without it
	Broken  State = "broken"  // builds cannot run
)

// Finding is one thing that was looked at.
type Finding struct {
	Name   string `json:"name"` // short and stable: "sandbox", "registry docker.io"
	State  State  `json:"state"`
	Detail string `json:"detail"`         // what was found
	Hint   string `json:"hint,omitempty"` // what to do about it
}

// Options say what to look at.
type Options struct {
	// Home is the folder of slipway's state. It need not exist.
	Home string
	// Config names the registries to try and how to reach them.
	Config config.Config
	// Registries are further hosts to try.
	Registries []string
	// Place is where isolation.Enter got, or NoPlace why it got nowhere.
	Place   isolation.Place
	NoPlace error
}

const (
	// registryPatience is how long a registry may take to say anything at all.
	registryPatience = 5 * time.Second
	// enough is the free space, in bytes, below which a build of ordinary images will likely not end.
	enough = 5_000_000_000
)

// Examine looks at everything. Findings come in a stable order.
func Examine(ctx context.Context, o Options) []Finding {
	client := registry.New(registry.Options{
		Insecure: o.Config.InsecureRegistries,
		Mirrors:  o.Config.RegistryMirrors,
		Retry:    registry.Retry{Tries: 1},
	})
	defer client.Close()
	e := examination{
		machine: sandbox.Probe,
		ask: func(ctx context.Context, r ref.Ref) error {
			_, err := client.Head(ctx, r)
			return err
		},
	}
	return e.examine(ctx, o)
}

// examination is where Examine looks.
type examination struct {
	machine func(ctx context.Context, dir string) []sandbox.Finding
	ask     func(ctx context.Context, r ref.Ref) error
}

func (e examination) examine(ctx context.Context, o Options) []Finding {
	hosts := registries(o)
	found := make([]Finding, len(hosts))
	var asking sync.WaitGroup
	for i, host := range hosts {
		asking.Go(func() { found[i] = e.registry(ctx, host) })
	}
	findings := append([]Finding{isolated(o)}, e.home(ctx, o)...)
	findings = append(findings, git(ctx))
	asking.Wait()
	return append(findings, found...)
}

// home looks at the folder of the state, or where it would be made, and what the machine can do there.
func (e examination) home(ctx context.Context, o Options) []Finding {
	f := Finding{Name: "home", State: OK, Detail: o.Home}
	dir, err := os.MkdirTemp(existing(o.Home), "slipway-doctor-")
	if err != nil {
		f.State, f.Detail = Broken, err.Error()
		f.Hint = "set SLIPWAY_HOME to a folder that this user may write to"
		return append(e.sandbox(ctx, os.TempDir(), o), f)
	}
	findings := append(e.sandbox(ctx, dir, o), f, disk(dir))
	if err := os.RemoveAll(dir); err != nil {
		findings = append(findings, Finding{Name: "leftover", State: Missing, Detail: err.Error(), Hint: "remove " + dir})
	}
	return findings
}

// existing returns the nearest folder at or above dir that there is.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return dir
		}
		dir = parent
	}
}

// isolated says how commands are kept apart.
func isolated(o Options) Finding {
	f := Finding{Name: "isolation", State: OK, Detail: string(o.Place.Kind), Hint: o.Place.Hint}
	if o.Place.Note != "" {
		f.Detail = o.Place.Note
	}
	switch {
	case o.NoPlace != nil:
		f.State, f.Detail, f.Hint = Broken, o.NoPlace.Error(), errs.HintOf(o.NoPlace)
	case f.Hint != "":
		f.State = Missing
	}
	return f
}

func (e examination) sandbox(ctx context.Context, dir string, o Options) []Finding {
	findings := []Finding{}
	for _, p := range e.machine(ctx, dir) {
		f := Finding{Name: p.Name, State: OK, Detail: strings.ReplaceAll(p.Detail, dir, "slipway's home"), Hint: p.Hint}
		switch {
		case p.OK:
		case slices.Contains([]string{"root", "sandbox"}, p.Name) && o.NoPlace == nil && o.Place.Kind == isolation.PrivateRoot:
			f.State = Missing // chroot needs neither
		case slices.Contains([]string{"root", "kernel", "sandbox", "seccomp"}, p.Name):
			f.State = Broken
		default:
			f.State = Missing
		}
		findings = append(findings, f)
	}
	return findings
}

func disk(dir string) Finding {
	f := Finding{Name: "disk", State: OK}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		f.State, f.Detail = Missing, err.Error()
		return f
	}
	free := int64(s.Bavail) * s.Bsize
	f.Detail = fmt.Sprintf("%.1f GB free for slipway's home", float64(free)/1e9)
	if free < enough {
		f.State, f.Hint = Missing, "free some space, or set SLIPWAY_HOME to a folder on a larger disk"
	}
	return f
}

func git(ctx context.Context) Finding {
	f := Finding{Name: "git", State: OK}
	version, err := exec.CommandContext(ctx, "git", "--version").Output()
	if err != nil {
		f.State, f.Detail, f.Hint = Missing, err.Error(), "needed to run pipelines and to build from repositories: install git"
		return f
	}
	f.Detail = strings.TrimPrefix(strings.TrimSpace(string(version)), "git version ")
	return f
}

// registries are the hosts to try: Docker Hub, which Dockerfiles mean by default, and all that the user named.
func registries(o Options) []string {
	hosts := []string{config.DockerHub}
	named := slices.Concat(o.Registries, o.Config.InsecureRegistries)
	for source := range o.Config.RegistryMirrors {
		named = append(named, source)
	}
	for _, to := range o.Config.MapRegistry {
		host, _, _ := strings.Cut(to, "/")
		named = append(named, host)
	}
	slices.Sort(named)
	for _, host := range slices.Compact(named) {
		if host != config.DockerHub {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// registry asks a host for an image that nobody has. Any answer will do.
func (e examination) registry(ctx context.Context, host string) Finding {
	f := Finding{Name: "registry " + host, State: OK, Detail: "answers"}
	r, err := ref.Parse(host + "/slipway/doctor:latest")
	if err != nil {
		f.State, f.Detail = Missing, err.Error()
		return f
	}
	ctx, cancel := context.WithTimeoutCause(ctx, registryPatience, fmt.Errorf("no answer within %s", registryPatience))
	defer cancel()
	switch err := e.ask(ctx, r); {
	case err == nil, errors.Is(err, errs.NotFound):
	case errors.Is(err, errs.Denied):
		f.Detail = "answers, and wants credentials for what is not public"
	default:
		f.State, f.Detail = Missing, err.Error()
		if ctx.Err() != nil {
			f.Detail = context.Cause(ctx).Error()
		}
		f.Hint = errs.HintOf(err)
		if f.Hint == "" {
			f.Hint = "name a mirror that can be reached under registryMirrors in config.yaml, or with --registry-mirror"
		}
	}
	return f
}
