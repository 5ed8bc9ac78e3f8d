package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/app"
	"slipway/internal/build"
)

const explainDockerfile = `ARG BASE=scratch
FROM $BASE AS build
WORKDIR /src
COPY go.mod .
COPY src src
ARG VERSION=1
RUN --mount=type=bind,source=script,target=/script cat /script src/* >out
FROM $BASE
COPY --from=build /src/out /out
RUN true
`

// reasons builds and returns what --explain says, by the step's instruction as displayed.
func reasons(t *testing.T, a *app.App, b app.Build) map[string]string {
	t.Helper()
	got := map[string]string{}
	var mu sync.Mutex
	b.Explain, b.Network = true, "default"
	b.Events = func(e build.Event) {
		if e.Kind != build.Reason {
			return
		}
		if e.Step == 0 {
			t.Errorf("a reason without a step: %q", e.Text)
		}
		mu.Lock()
		defer mu.Unlock()
		_, instruction, _ := strings.Cut(e.Name, "] ")
		word, why, _ := strings.Cut(e.Text, ": ")
		if !strings.HasPrefix(instruction, word+" ") {
			t.Errorf("%q is told of %q", e.Text, e.Name)
		}
		got[instruction] = why
	}
	if _, err := a.Build(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestExplain(t *testing.T) {
	f := newCacheFixture(t)
	const (
		copyMod  = "COPY go.mod ."
		copySrc  = "COPY src src"
		run      = "RUN --mount=type=bind,source=script,target=/script cat /script src/* >out"
		fromMade = "COPY --from=build /src/out /out"
		last     = "RUN true"
	)
	onSrc := "it stands on [build 4/5] " + copySrc + ", which changed"
	onCopy := "it stands on [stage-1 2/3] " + fromMade + ", which changed"
	for name, tc := range map[string]struct {
		change func(t *testing.T, dir string, b *app.Build)
		want   map[string]string
	}{
		"nothing": {func(*testing.T, string, *app.Build) {}, nil},
		"one file": {
			func(t *testing.T, dir string, _ *app.Build) { put(t, dir, "src/main.go", "other\n") },
			map[string]string{copySrc: "src/main.go changed", run: onSrc, fromMade: "stage build changed", last: onCopy},
		},
		"files come and go": {
			func(t *testing.T, dir string, _ *app.Build) {
				put(t, dir, "src/new.go", "new\n")
				if err := os.Remove(filepath.Join(dir, "src/util.go")); err != nil {
					t.Fatal(err)
				}
			},
			map[string]string{copySrc: "src/new.go added, src/util.go removed", run: onSrc, fromMade: "stage build changed", last: onCopy},
		},
		"many files": {
			func(t *testing.T, dir string, _ *app.Build) {
				for _, n := range []string{"a", "b", "c", "d", "e"} {
					put(t, dir, "src/"+n, n)
				}
			},
			map[string]string{copySrc: "src/a added, src/b added, src/c added, and 2 more files", run: onSrc, fromMade: "stage build changed", last: onCopy},
		},
		"a mode": {
			func(t *testing.T, dir string, _ *app.Build) {
				if err := os.Chmod(filepath.Join(dir, "src/main.go"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			map[string]string{copySrc: "src/main.go changed", run: onSrc, fromMade: "stage build changed", last: onCopy},
		},
		"a file that is mounted": {
			func(t *testing.T, dir string, _ *app.Build) { put(t, dir, "script", "other\n") },
			map[string]string{run: "script changed", fromMade: "stage build changed", last: onCopy},
		},
		"an argument": {
			func(_ *testing.T, _ string, b *app.Build) { b.Args["VERSION"] = "2" },
			map[string]string{run: "variable VERSION changed", fromMade: "stage build changed", last: onCopy},
		},
		"an instruction": {
			func(t *testing.T, dir string, _ *app.Build) {
				put(t, dir, "Dockerfile", strings.Replace(explainDockerfile, "COPY src src", "ENV A=b\nCOPY src src", 1))
			},
			map[string]string{run: "variable A is new", fromMade: "stage build changed", last: onCopy},
		},
		"a new instruction": {
			func(t *testing.T, dir string, _ *app.Build) {
				put(t, dir, "Dockerfile", strings.Replace(explainDockerfile, "RUN true", "RUN false || true\nRUN true", 1))
			},
			map[string]string{
				"RUN false || true": "the instruction is new",
				last:                "it stands on [stage-1 3/4] RUN false || true, which changed",
			},
		},
		"another command": {
			func(t *testing.T, dir string, _ *app.Build) {
				put(t, dir, "Dockerfile", strings.Replace(explainDockerfile, "RUN true", "RUN :", 1))
			},
			map[string]string{"RUN :": "the command changed"},
		},
		"a flag": {
			func(_ *testing.T, _ string, b *app.Build) { b.Compression.Algorithm = "zstd" },
			map[string]string{
				"WORKDIR /src": "--compression changed", copyMod: "--compression changed", copySrc: "--compression changed",
				run: "--compression changed", fromMade: "--compression changed, stage build changed", last: "--compression changed",
			},
		},
		"no cache": {
			func(_ *testing.T, _ string, b *app.Build) { b.NoCache = true },
			map[string]string{
				"WORKDIR /src": "--no-cache", copyMod: "--no-cache", copySrc: "--no-cache",
				run: "--no-cache", fromMade: "--no-cache", last: "--no-cache",
			},
		},
		"another base image": {
			func(_ *testing.T, _ string, b *app.Build) { b.Args["BASE"] = f.tag("library/alpine") },
			map[string]string{
				"WORKDIR /src": "the base image changed from BUSYBOX to ALPINE", copyMod: "it stands on [build 2/5] WORKDIR /src, which changed",
				copySrc: "it stands on [build 3/5] " + copyMod + ", which changed", run: onSrc,
				fromMade: "stage build changed", last: onCopy,
			},
		},
		"a first build": {
			func(_ *testing.T, _ string, b *app.Build) { b.Target = "build" },
			map[string]string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := f.machine()
			dir := write(t, "Dockerfile", explainDockerfile, "go.mod", "module\n", "src/main.go", "main\n", "src/util.go", "util\n", "script", "script\n")
			b := app.Build{Context: dir, Args: f.args(nil)}
			for _, why := range reasons(t, a, b) {
				if why != "no earlier build of this Dockerfile is known here" {
					t.Errorf("the first build: %q", why)
				}
			}
			tc.change(t, dir, &b)
			got := reasons(t, a, b)
			for k, v := range got { // the digests of base images are not the test's business
				if strings.HasPrefix(v, "the base image changed from "+f.tag("library/busybox")) && strings.Contains(v, " to "+f.tag("library/alpine")) {
					got[k] = "the base image changed from BUSYBOX to ALPINE"
				}
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("reasons mismatch (-want +got):\n%s", diff)
			}
			if again := reasons(t, a, b); len(again) > 0 && !b.NoCache {
				t.Errorf("a rebuild ran %q", again)
			}
		})
	}
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
