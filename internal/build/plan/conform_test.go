package plan_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/oci"
)

// conformCase is a case.json and a want.json of ../testdata/golden; see the README there.
type conformCase struct {
	dir           string
	File, Context string
	Target        string
	Args          map[string]string
	Needs         []dockerfile.Feature
	want          struct {
		Error   bool
		Config  map[string]any
		History []string
	}
}

// What BuildKit made of each case's config, or that it refused it, is what the plan says, without running anything.
func TestConformance(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/golden/*/want.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		c := conformCase{dir: filepath.Dir(file), File: "Dockerfile"}
		load(t, filepath.Join(c.dir, "case.json"), &c)
		load(t, file, &c.want)
		t.Run(filepath.Base(c.dir), func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}

func load(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *conformCase) test(t *testing.T) {
	g, err := c.plan()
	// What can only be told by running is accepted here; a case that nothing need run for begins with "refuse-".
	if refuse := strings.HasPrefix(filepath.Base(c.dir), "refuse-"); refuse || err != nil {
		if !refuse || err == nil || !c.want.Error {
			t.Errorf("error is %v, BuildKit refuses it: %t", err, c.want.Error)
		}
		return
	}
	if c.want.Error {
		return
	}
	if diff := cmp.Diff(c.want.Config, compared(t, g.Target.Config)); diff != "" {
		t.Errorf("config mismatch (-BuildKit +slipway):\n%s", diff)
	}
	if diff := cmp.Diff(c.want.History, history(g.Target), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("history mismatch (-BuildKit +slipway):\n%s", diff)
	}
}

// history is what a stage and the stages below it add to the history of the image at the bottom.
func history(s *plan.Stage) []string {
	var lines []string
	if s.Base.Stage != nil {
		lines = history(s.Base.Stage)
	}
	for _, st := range s.Steps {
		line := st.CreatedBy
		if st.Empty {
			line = "(empty) " + line
		}
		lines = append(lines, line)
	}
	return lines
}

func (c *conformCase) plan() (*plan.Graph, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, c.File))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{filepath.Join(c.dir, c.Context, ".dockerignore"), filepath.Join(c.dir, dockerfile.IgnoreFile(c.File))} {
		ignore, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if _, err := dockerfile.ParseIgnore(name, ignore); err != nil {
			return nil, err
		}
	}
	var missing error
	g, err := build(c.File, data, plan.Options{Target: c.Target, Args: c.Args, Supports: c.Needs}, func(n plan.Need) plan.Image {
		image := plan.Image{Ref: n.Ref, Digest: "sha256:0123"}
		switch n.Ref {
		case "docker.io/library/busybox:latest", "docker.io/library/alpine:latest", "docker.io/library/debian:bookworm":
			image.Config.Platform = amd64()
			image.Config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
			image.Config.Config.Cmd = []string{"sh"}
		default:
			missing = errors.New("no such image: " + n.Ref)
		}
		return image
	})
	return g, errors.Join(err, missing)
}

// compared is a config in want.json's form: only what is set, and only what a container is started with.
func compared(t *testing.T, image oci.Image) map[string]any {
	t.Helper()
	data, err := json.Marshal(image.Config)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	delete(all, "ArgsEscaped")
	if image.Author != "" {
		all["Author"] = image.Author
	}
	maps.DeleteFunc(all, func(_ string, v any) bool { return empty(v) })
	return all
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
