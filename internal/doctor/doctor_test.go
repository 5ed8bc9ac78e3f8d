package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/isolation"
	"slipway/internal/oci/ref"
	"slipway/internal/sandbox"
)

// machine answers as told, whatever this machine is.
func machine(findings ...sandbox.Finding) func(context.Context, string) []sandbox.Finding {
	return func(context.Context, string) []sandbox.Finding { return findings }
}

func TestExamine(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	e := examination{
		machine: machine(
			sandbox.Finding{Name: "root", OK: true, Detail: "user 0"},
			sandbox.Finding{Name: "sandbox", Detail: "no overlay", Hint: "modprobe overlay"},
			sandbox.Finding{Name: "fuse", Detail: "no /dev/fuse"},
		),
		ask: func(_ context.Context, r ref.Ref) error {
			switch r.Registry() {
			case "docker.io":
				return errs.Mark(errors.New("no route"), errs.Unavailable)
			case "private.lan":
				return errs.Mark(errors.New("401"), errs.Denied)
			}
			return errs.Mark(errors.New("404"), errs.NotFound)
		},
	}
	got := e.examine(t.Context(), Options{
		Home: filepath.Join(parent, "not", "yet"),
		Config: config.Config{
			InsecureRegistries: []string{"registry.lan:5000"},
			RegistryMirrors:    map[string][]string{"docker.io": {"mirror.lan"}},
			MapRegistry:        map[string]string{"vpc.example": "registry.lan:5000/prefix"},
		},
		Registries: []string{"private.lan"},
		Place:      isolation.Place{Kind: isolation.PrivateRoot, Note: "a chroot", Hint: "be root"},
	})
	want := []Finding{
		{Name: "isolation", State: Missing, Detail: "a chroot", Hint: "be root"},
		{Name: "root", State: OK, Detail: "user 0"},
		{Name: "sandbox", State: Missing, Detail: "no overlay", Hint: "modprobe overlay"},
		{Name: "fuse", State: Missing, Detail: "no /dev/fuse"},
		{Name: "home", State: OK, Detail: filepath.Join(parent, "not", "yet")},
		{Name: "disk"},
		{Name: "git"},
		{
			Name: "registry docker.io", State: Missing, Detail: "no route",
			Hint: "name a mirror that can be reached under registryMirrors in config.yaml, or with --registry-mirror",
		},
		{Name: "registry private.lan", State: OK, Detail: "answers, and wants credentials for what is not public"},
		{Name: "registry registry.lan:5000", State: OK, Detail: "answers"},
	}
	theirs := cmp.FilterValues(func(a, b Finding) bool {
		return a.Name == b.Name && (a.Name == "disk" || a.Name == "git") // this machine's own
	}, cmp.Ignore())
	if diff := cmp.Diff(want, got, theirs, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("findings mismatch (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(parent)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestHomeThatCannotBe(t *testing.T) {
	t.Parallel()
	// A folder of /proc: not even root may write there.
	findings := examination{machine: machine()}.home(t.Context(), Options{Home: "/proc/self/fdinfo"})
	if len(findings) != 1 || findings[0].State != Broken || !strings.Contains(findings[0].Hint, "SLIPWAY_HOME") {
		t.Errorf("findings %+v, want a broken home", findings)
	}
}

func TestRegistryThatSaysNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no answer within 5s"))
	e := examination{ask: func(ctx context.Context, _ ref.Ref) error { return ctx.Err() }}
	if f := e.registry(ctx, "silent.lan"); f.State != Missing || f.Detail != "no answer within 5s" {
		t.Errorf("finding %+v", f)
	}
	if f := e.registry(ctx, "not a host"); f.State != Missing || f.Detail == "" {
		t.Errorf("finding %+v for a host that cannot be", f)
	}
}

// Where nothing isolates, nothing is built; where something does, a sandbox that fails is broken.
func TestIsolation(t *testing.T) {
	t.Parallel()
	e := examination{machine: machine(sandbox.Finding{Name: "sandbox", Detail: "no overlay"})}
	for _, o := range []Options{
		{NoPlace: errs.Hint(errors.New("no user namespaces"), "sysctl a=b")},
		{Place: isolation.Place{Kind: isolation.Privileged}},
	} {
		o.Home = t.TempDir()
		if f := e.home(t.Context(), o)[0]; f.State != Broken {
			t.Errorf("sandbox = %+v, want broken", f)
		}
		f := isolated(o)
		want := Finding{Name: "isolation", State: OK, Detail: "namespaces"}
		if o.NoPlace != nil {
			want = Finding{Name: "isolation", State: Broken, Detail: "no user namespaces", Hint: "sysctl a=b"}
		}
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("isolation mismatch (-want +got):\n%s", diff)
		}
	}
}
