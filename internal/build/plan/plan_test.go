package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

var update = flag.Bool("update", false, "write what the goldens get as what they want")

// golden is a case's options.json.
type golden struct {
	Target   string
	Args     map[string]string
	Labels   map[string]string
	Platform *oci.Platform
	Network  string
	Ignore   []string
	Supports []dockerfile.Feature
	Contexts map[string]plan.Context
	// Images are configs by reference; every other reference has a plain one.
	Images map[string]oci.Image
}

func amd64() oci.Platform { return oci.Platform{OS: "linux", Architecture: "amd64"} }

// resolver answers what New needs, as a registry would.
func resolver(known map[string]oci.Image) func(plan.Need) plan.Image {
	return func(n plan.Need) plan.Image {
		image := plan.Image{Ref: n.Ref, Digest: "sha256:0123", Config: known[n.Ref]}
		if image.Config.OS == "" {
			image.Config.Platform = amd64()
		}
		return image
	}
}

// build parses and plans, resolving images until nothing is missing.
func build(name string, data []byte, opts plan.Options, resolve func(plan.Need) plan.Image) (*plan.Graph, error) {
	f, err := dockerfile.Parse(name, data)
	if err != nil {
		return nil, err
	}
	if opts.BuildPlatform.OS == "" {
		opts.BuildPlatform = amd64()
	}
	images := map[plan.Need]plan.Image{}
	for {
		g, err := plan.New(f, opts, images)
		need, ok := errors.AsType[*plan.NeedImages](err)
		if !ok {
			return g, err
		}
		for _, n := range need.Refs {
			images[n] = resolve(n)
		}
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("testdata/*/Dockerfile")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases in testdata: %v", err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			testGolden(t, dir)
		})
	}
}

func testGolden(t *testing.T, dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var c golden
	if opts, err := os.ReadFile(filepath.Join(dir, "options.json")); err == nil {
		if err := json.Unmarshal(opts, &c); err != nil {
			t.Fatal(err)
		}
	}
	opts := plan.Options{Target: c.Target, Args: c.Args, Labels: c.Labels, Network: c.Network, Supports: c.Supports, Contexts: map[string]plan.Context{}}
	for name, stands := range c.Contexts {
		key, err := plan.ContextName(name)
		if err != nil {
			t.Fatal(err)
		}
		opts.Contexts[key] = stands
	}
	if c.Platform != nil {
		opts.Platform = *c.Platform
	}
	if opts.Ignore, err = dockerfile.NewIgnore(c.Ignore); err != nil {
		t.Fatal(err)
	}
	var got string
	if g, err := build("Dockerfile", data, opts, resolver(c.Images)); err != nil {
		if !errors.Is(err, errs.Invalid) {
			t.Errorf("error %v is not an errs.Invalid", err)
		}
		got = "error " + err.Error() + "\n"
	} else {
		got = g.String()
	}
	path := filepath.Join(dir, "want")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("plan of %s mismatch (-want +got):\n%s", dir, diff)
	}
}

// Whatever a Dockerfile says, planning it neither panics nor hangs, and twice the same gives the same.
func FuzzNew(f *testing.F) {
	dirs, err := filepath.Glob("testdata/*/Dockerfile")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range dirs {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "arg", "value")
	}
	f.Fuzz(func(t *testing.T, data []byte, name, value string) {
		images := map[string]oci.Image{"docker.io/library/child:latest": {}}
		child := images["docker.io/library/child:latest"]
		child.Config.OnBuild = []string{value}
		images["docker.io/library/child:latest"] = child
		opts := plan.Options{
			Args:          map[string]string{name: value},
			Supports:      []dockerfile.Feature{dockerfile.Mount, dockerfile.Link, dockerfile.Exclude, dockerfile.Parents, dockerfile.Unpack, dockerfile.Device, dockerfile.Security},
			BuildPlatform: amd64(),
		}
		for _, resolve := range []func(plan.Need) plan.Image{resolver(images), unknown} {
			found, err := lint(string(data), opts, resolve)
			if err != nil && !errors.Is(err, errs.Invalid) {
				t.Errorf("lint: %v is not an errs.Invalid", err)
			}
			for _, w := range found {
				if w.Rule == "" || w.Line > 0 && w.Source.String() == "" {
					t.Errorf("warning %+v has no rule, or a place and nothing to show", w)
				}
			}
		}
		first, err := build("Dockerfile", data, opts, resolver(images))
		if err != nil {
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("error %v is not an errs.Invalid", err)
			}
			return
		}
		again, err := build("Dockerfile", data, opts, resolver(images))
		if err != nil {
			t.Fatalf("planned once, then: %v", err)
		}
		if diff := cmp.Diff(first.String(), again.String()); diff != "" {
			t.Errorf("two plans of the same differ:\n%s", diff)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	data, err := os.ReadFile("testdata/metadata/Dockerfile")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := build("Dockerfile", data, plan.Options{}, resolver(nil)); err != nil {
			b.Fatal(err)
		}
	}
}
