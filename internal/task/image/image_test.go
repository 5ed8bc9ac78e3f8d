package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/spec"
	"slipway/internal/task/image"
)

const header = `kind: Pipeline
name: p
spec:
  templateSpec:
    tasks:
      - name: task
        taskTemplate: build-image-task
        context:
          data:
            enable: true
`

// resolve reads a task whose context data is text, indented by twelve.
func resolve(text string) (*pipeline.Task, error) {
	file := spec.Parse("f.yaml", []byte(header+text))
	p, _, err := spec.Resolve([]*spec.File{file}, spec.Options{Checkers: map[string]spec.Checker{image.Name: image.New(image.Options{
		CheckFormat: func(_ string, level int) error {
			if level > 9 {
				return fmt.Errorf("no level %d", level)
			}
			return nil
		},
	})}})
	if err != nil {
		return nil, err
	}
	return &p.Tasks[0], nil
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, data, want string }{
		{"all keys", "build: {dockerfile: code/Dockerfile, context: ./context, image: r.example.com/a/b:v1, cacheDir: /mnt/c, instanceID: cri-1}", ""},
		{"all of ours", "build: {image: r.example.com/a/b, args: {V: 1.10}, target: t, platforms: [linux/amd64, linux/arm64], tags: [latest, r.example.com/c:d], secrets: [{id: a, env: A}, {id: b, file: b/c}], cache: {from: [r.example.com/c, {dir: /mnt/c}], to: [{ref: r.example.com/c, mode: max}, {type: inline}]}}", ""},
		{"a cache by name", "build: {image: r.example.com/a/b, cache: r.example.com/a:cache}", ""},
		{"a bad tag", "build: {image: r.example.com/a/b, tags: [v1, \"v 2\"]}", "f.yaml:11:58: tags has \"v 2\", which is no tag"},
		{"a tag of a bad reference", "build: {image: r.example.com/a/b, tags: [r.example.com/A]}", "f.yaml:11:54: "},
		{"a bad platform", "build: {image: a, platforms: [linux/amd64, a/b/c/d]}", "f.yaml:11:56: "},
		{"a platform twice", "build: {image: a, platforms: [linux/amd64, linux/amd64]}", "the platform linux/amd64 is there already"},
		{"a secret of nowhere", "build: {image: a, secrets: [{id: s}]}", "f.yaml:11:41: the secret s needs either env or file"},
		{"a secret of two places", "build: {image: a, secrets: [{id: s, env: A, file: b}]}", "the secret s needs either env or file"},
		{"a secret twice", "build: {image: a, secrets: [{id: s, env: A}, {id: s, env: B}]}", "a second secret with the id s"},
		{"a secret above", "build: {image: a, secrets: [{id: s, file: ../s}]}", "file ../s leads out of the repository"},
		{"an inline cache to read", "build: {image: a, cache: {from: [{type: inline}]}}", "a cache of type inline is only written"},
		{"an inline cache of everything", "build: {image: a, cache: {to: [{type: inline, mode: max}]}}", "an image holds the results of its own stages alone"},
		{"a cache of nowhere", "build: {image: a, cache: {to: [{mode: max}]}}", "a cache needs a ref or a dir"},
		{"a relative cache", "build: {image: a, cache: {to: [{dir: c}]}}", "dir c must be an absolute path"},
		{"a cache at a digest", "build: {image: a, cache: {to: [\"a@sha256:" + strings.Repeat("a", 64) + "\"]}}", "the cache to write has a digest"},
		{"image alone", "build: {image: r.example.com/a/b}", ""},
		{"warm alone", "warm: {images: [debian, \"r.example.com/b:1\"], cacheDir: /mnt/c}", ""},
		{"nothing", "displayName: x", "f.yaml:6:15: the task task has neither build nor warm"},
		{"no image", "build: {dockerfile: a}", "f.yaml:11:13: build needs an image"},
		{"masked", "build: {image: registry-vpc.cn-hangzhou.aliyuncs.com/pipeline***/demo***:latest}", "f.yaml:11:28: "},
		{"a digest", "build: {image: r.example.com/a@sha256:" + strings.Repeat("a", 64) + "}", "image has a digest"},
		{"accelerated", "build: {image: \"r.example.com/a/b:debug_accelerated\"}", ""},
		{"accelerated as a whole", "build: {image: \"r.example.com/a/b:debug_containerd_accelerated\", instanceID: cri-1}", ""},
		{"nothing but accelerated", "build: {image: \"r.example.com/a/b:_accelerated\"}", "f.yaml:11:28: the tag _accelerated is only what says"},
		{"acceleration", "build: {image: a, acceleration: {format: estargz, level: 9}}", ""},
		{"acceleration by default", "build: {image: a, acceleration: {}}", ""},
		{"acceleration by ACR", "build: {image: a, instanceID: cri-1, acceleration: {format: acr, timeout: 60}}", ""},
		{"acceleration by ACR, nobody knows which", "build: {image: a, acceleration: {format: acr}}", "f.yaml:11:54: format acr needs the instance"},
		{"acceleration by ACR at a level", "build: {image: a, instanceID: c, acceleration: {format: acr, level: 3}}", "level has no meaning"},
		{"a format that nobody knows", "build: {image: a, acceleration: {format: zip}}", "f.yaml:11:54: "},
		{"a level that the format does not have", "build: {image: a, acceleration: {format: estargz, level: 20}}", "f.yaml:11:45: no level 20"},
		{"a timeout of nothing", "build: {image: a, acceleration: {timeout: 20}}", "f.yaml:11:55: timeout is for what the registry makes"},
		{"a tag that is too long", "build: {image: \"a:" + strings.Repeat("x", 120) + "\", acceleration: {}}", "the tag is too long"},
		{"Dockerfile above", "build: {image: a, dockerfile: ../Dockerfile}", "dockerfile ../Dockerfile leads out of the repository"},
		{"absolute Dockerfile", "build: {image: a, dockerfile: /etc/passwd}", "dockerfile /etc/passwd leads out of the repository"},
		{"context above", "build: {image: a, context: a/../../b}", "context a/../../b leads out of the repository"},
		{"relative cacheDir", "build: {image: a, cacheDir: cache}", "cacheDir cache must be an absolute path"},
		{"warm without images", "warm: {images: [], cacheDir: /c}", "f.yaml:11:13: warm needs images"},
		{"warm without cacheDir", "warm: {images: [a]}", "f.yaml:11:13: warm needs a cacheDir"},
		{"warm with a bad image", "warm: {images: [a, \"B:::\"], cacheDir: /c}", "f.yaml:11:32: "},
		{"an expression nobody knows is reported once", "build: {image: \"a:<% .git.x %>\"}", "f.yaml:11:31: unknown variable .git.x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := resolve("            " + tt.data + "\n")
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")):
				t.Errorf("got %v, want %q alone", err, tt.want)
			}
		})
	}
}

// builder records what it is asked for.
type builder struct {
	request image.Request
	warmed  image.WarmRequest
	order   []string
	err     error

	accelerated []image.Acceleration
	named       func(ref.Ref) (string, error)
}

func (b *builder) Accelerate(_ context.Context, r image.Acceleration) (image.Result, error) {
	b.accelerated, b.order = append(b.accelerated, r), append(b.order, "accelerate")
	return image.Result{Digest: "sha256:1"}, nil
}

func (b *builder) Named(_ context.Context, r ref.Ref) (string, error) { return b.named(r) }

func (b *builder) Build(_ context.Context, r image.Request) (image.Result, error) {
	b.request, b.order = r, append(b.order, "build")
	r.Progress("a step")
	return image.Result{Digest: "sha256:0"}, b.err
}

func (b *builder) Warm(_ context.Context, r image.WarmRequest) error {
	b.warmed, b.order = r, append(b.order, "warm")
	return nil
}

// repository is a Source of a few files.
type repository map[string]string

func (r repository) Checkout(_ context.Context, dir string) error {
	for name, text := range r {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(target, path); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// work runs a task with a repository and returns what was told.
func work(t *testing.T, b *builder, data string, files repository, mounts ...pipeline.Mount) (pipeline.Output, []string, error) {
	t.Helper()
	task, err := resolve(data)
	if err != nil {
		t.Fatal(err)
	}
	environment := task.Environment
	environment.Mounts = mounts
	var told []string
	worker := image.New(image.Options{
		Builder: b, MapRef: image.MapRegistry(map[string]string{"registry.example.com": "127.0.0.1:5000/mirror"}),
		Instance: func(written, here ref.Ref, id string) string {
			return written.Familiar() + " at " + here.Familiar() + " is of " + id
		},
	})
	output, err := worker.Work(t.Context(), &pipeline.Job{
		Task: task, Environment: environment, Dir: t.TempDir(), Source: files,
		Emit: func(e pipeline.Event) {
			if e.Kind == pipeline.Notice {
				told = append(told, e.Text)
			}
		},
	})
	return output, told, err
}

func TestWarmThenBuild(t *testing.T) {
	t.Parallel()
	b := &builder{}
	nas := t.TempDir()
	output, told, err := work(t, b, `            warm: {images: [registry.example.com/base:1, debian], cacheDir: /mnt/cache/images, instanceID: cri-1}
            build: {dockerfile: ./code/Dockerfile, image: registry.example.com/app:v1, cacheDir: /mnt/cache/images}
`, repository{"code/Dockerfile": "FROM scratch"}, pipeline.Mount{Dir: "/mnt/cache", Server: "nas:/c", Folder: nas})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pipeline.Output{Image: "127.0.0.1:5000/mirror/app:v1", Digest: "sha256:0"}, output); diff != "" {
		t.Errorf("output mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"warm", "build"}, b.order); diff != "" {
		t.Errorf("order mismatch (-want +got):\n%s", diff)
	}
	r := b.request
	got := []string{r.Dockerfile, r.Context, r.CacheDir, b.warmed.CacheDir, b.warmed.Images[0].String(), b.warmed.Images[1].String(), r.LimitsOf}
	cache := filepath.Join(nas, "images")
	want := []string{"code/Dockerfile", "code", cache, cache, "127.0.0.1:5000/mirror/base:1", "docker.io/library/debian:latest", "the default environment"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request mismatch (-want +got):\n%s", diff)
	}
	from, err := ref.Parse("registry.example.com/deep/er:2")
	if err != nil || r.MapRef(from).String() != "127.0.0.1:5000/mirror/deep/er:2" {
		t.Errorf("MapRef: %s, %v", r.MapRef(from), err)
	}
	wantTold := []string{
		"registry.example.com/base:1 is 127.0.0.1:5000/mirror/base:1 here",
		"registry.example.com/base:1 at 127.0.0.1:5000/mirror/base:1 is of cri-1",
		"debian:latest at debian:latest is of cri-1",
		"registry.example.com/app:v1 is 127.0.0.1:5000/mirror/app:v1 here",
	}
	if diff := cmp.Diff(wantTold, told); diff != "" {
		t.Errorf("notices mismatch (-want +got):\n%s", diff)
	}
}

func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	b := &builder{}
	nas := t.TempDir()
	if err := os.WriteFile(filepath.Join(nas, "key"), []byte("from the NAS"), 0o600); err != nil {
		t.Fatal(err)
	}
	output, _, err := work(t, b, `            envVars: {TOKEN: from the environment}
            build:
              image: registry.example.com/app:v1
              args: {VERSION: 1.10, EMPTY: }
              target: release
              platforms: [linux/amd64, linux/arm64]
              tags: [latest, registry.example.com/other:v1, v1]
              secrets: [{id: a, env: TOKEN}, {id: b, file: conf/b}, {id: c, file: /mnt/cache/key}]
              cache:
                from: [registry.example.com/app:cache, {dir: /mnt/cache/steps}]
                to: [{ref: registry.example.com/app:cache, mode: max}, {type: inline}]
`, repository{"Dockerfile": "", "conf/b": "from the repository"}, pipeline.Mount{Dir: "/mnt/cache", Server: "nas:/c", Folder: nas})
	if err != nil {
		t.Fatal(err)
	}
	wantOutput := pipeline.Output{
		Image: "127.0.0.1:5000/mirror/app:v1", Digest: "sha256:0",
		Also: []string{"127.0.0.1:5000/mirror/app:latest", "127.0.0.1:5000/mirror/other:v1"},
	}
	if diff := cmp.Diff(wantOutput, output); diff != "" {
		t.Errorf("output mismatch (-want +got):\n%s", diff)
	}
	r := b.request
	type part struct {
		Args      map[string]string
		Target    string
		Platforms []string
		Secrets   map[string][]byte
		From, To  []image.Cache
	}
	want := part{
		map[string]string{"VERSION": "1.10", "EMPTY": ""},
		"release",
		[]string{"linux/amd64", "linux/arm64"},
		map[string][]byte{"a": []byte("from the environment"), "b": []byte("from the repository"), "c": []byte("from the NAS")},
		[]image.Cache{{Ref: "registry.example.com/app:cache"}, {Dir: filepath.Join(nas, "steps")}},
		[]image.Cache{{Ref: "registry.example.com/app:cache", Max: true}, {Inline: true}},
	}
	if diff := cmp.Diff(want, part{r.Args, r.Target, r.Platforms, r.Secrets, r.CacheFrom, r.CacheTo}); diff != "" {
		t.Errorf("request mismatch (-want +got):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	b := &builder{}
	_, told, err := work(t, b, "            build: {image: r.example.com/a, cacheDir: /tmp/c}\n", repository{"Dockerfile": ""})
	if err != nil || b.request.Dockerfile != "Dockerfile" || b.request.Context != "." {
		t.Errorf("%v, %+v", err, b.request)
	}
	if len(told) != 1 || !strings.Contains(told[0], "cacheDir /tmp/c is in no NAS mount") {
		t.Errorf("told %q", told)
	}
}

func TestWorkErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, data, want, hint string
		files                  repository
		mounts                 []pipeline.Mount
	}{
		{"no Dockerfile", "build: {image: a}", "f.yaml:6:15: the Dockerfile Dockerfile of the repository: no such file", "is it committed?", repository{"x": ""}, nil},
		{"a folder as Dockerfile", "build: {image: a, dockerfile: x}", "x is not a file", "", repository{"x/y": ""}, nil},
		{"no context", "build: {image: a, context: no}", "f.yaml:11:40: the build context no of the repository: no such file", "", repository{"Dockerfile": ""}, nil},
		{"a link out of the repository", "build: {image: a}", "the Dockerfile Dockerfile of the repository: path escapes from parent", "", repository{"Dockerfile": "-> /etc/passwd"}, nil},
		{"a context out of the repository", "build: {image: a, context: c}", "path escapes from parent", "", repository{"Dockerfile": "", "c": "-> ../.."}, nil},
		{"no variable for a secret", "build: {image: a, secrets: [{id: s, env: HOME}]}", "f.yaml:11:41: secret s: the task's environment has no HOME", "--env HOME", repository{"Dockerfile": ""}, nil},
		{"a secret in no mount", "build: {image: a, secrets: [{id: s, file: /etc/passwd}]}", "/etc/passwd is in no NAS mount", "", repository{"Dockerfile": ""}, nil},
		{"a link to a secret of this machine", "build: {image: a, secrets: [{id: s, file: s}]}", "secret s: openat s: path escapes from parent", "", repository{"Dockerfile": "", "s": "-> /etc/passwd"}, nil},
		{"a NAS that is not mapped", "build: {image: a, cacheDir: /mnt/c}", "cacheDir /mnt/c is on nas.example.com:/c, which is no folder of this machine", "--map-nas nas.example.com:/c=DIR", repository{"Dockerfile": ""}, []pipeline.Mount{{Dir: "/mnt", Server: "nas.example.com:/c"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := work(t, &builder{}, "            "+tt.data+"\n", tt.files, tt.mounts...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, errs.Invalid) {
				t.Errorf("got %v, want %q of kind errs.Invalid", err, tt.want)
			}
			if !strings.Contains(errs.HintOf(err), tt.hint) {
				t.Errorf("hint %q, want %q", errs.HintOf(err), tt.hint)
			}
		})
	}
}

func TestBuildErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	b := &builder{err: errs.Mark(errors.New("no"), errs.Denied)}
	_, _, err := work(t, b, "            build: {image: r.example.com/a/b}\n", repository{"Dockerfile": ""})
	if !errors.Is(err, errs.Denied) || err.Error() != "build r.example.com/a/b:latest: no" {
		t.Errorf("got %v", err)
	}
}

// keeper is a builder whose cache folder gets a file.
type keeper struct{ builder }

func (k *keeper) Warm(_ context.Context, r image.WarmRequest) error {
	return os.WriteFile(filepath.Join(r.CacheDir, "blob"), nil, 0o644)
}

// What is written into a network folder belongs to whom its nasConfig says.
func TestOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	nas := t.TempDir()
	task, err := resolve("            warm: {images: [debian], cacheDir: /mnt/c/images}\n            runnerConfig: {nasConfig: {userId: 1234, groupId: 56}}\n")
	if err != nil {
		t.Fatal(err)
	}
	environment := task.Environment
	environment.Mounts = []pipeline.Mount{{Dir: "/mnt/c", Server: "nas:/c", Folder: nas}}
	_, err = image.New(image.Options{Builder: &keeper{}}).Work(t.Context(), &pipeline.Job{
		Task: task, Environment: environment, Dir: t.TempDir(), Emit: func(pipeline.Event) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"images", "images/blob"} {
		info, err := os.Stat(filepath.Join(nas, name))
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 1234 || s.Gid != 56 {
			t.Errorf("%s belongs to %d:%d", name, s.Uid, s.Gid)
		}
	}
}
