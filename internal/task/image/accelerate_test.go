package image_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
	"slipway/internal/task/image"
)

// built is what the builder of these tests pushes.
var built = "sha256:" + strings.Repeat("a", 64)

// accelerate works on a task that pushes to r.example.com, where ACR is, and returns what was told besides.
func accelerate(t *testing.T, b *builder, data string) (pipeline.Output, []string, error) {
	t.Helper()
	task, err := resolve("            build: " + data + "\n")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	worker := image.New(image.Options{
		Builder: pushing{b}, Converts: func(written, here ref.Ref) bool { return written.Registry() == here.Registry() },
		Instance: func(_, _ ref.Ref, id string) string { return "it is " + id },
	})
	output, err := worker.Work(t.Context(), &pipeline.Job{
		Task: task, Environment: task.Environment, Dir: t.TempDir(), Source: repository{"Dockerfile": ""},
		Emit: func(e pipeline.Event) {
			if e.Kind == pipeline.Notice && !strings.HasPrefix(e.Text, "it is") {
				told = append(told, e.Text)
			}
		},
	})
	return output, told, err
}

// pushing is a builder whose images have a digest that is one.
type pushing struct{ *builder }

func (p pushing) Build(ctx context.Context, r image.Request) (image.Result, error) {
	_, err := p.builder.Build(ctx, r)
	return image.Result{Digest: built}, err
}

func TestAcceleratedBySlipway(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		data   string
		images string // that are built
		made   string // from, to, format and level
	}{
		"by a suffix": {
			"{image: \"r.example.com/a:v1_accelerated\"}",
			"r.example.com/a:v1", "r.example.com/a:v1@ -> r.example.com/a:v1_accelerated  0",
		},
		"by the longer one": {
			"{image: \"r.example.com/a:v1_containerd_accelerated\"}",
			"r.example.com/a:v1", "r.example.com/a:v1@ -> r.example.com/a:v1_containerd_accelerated  0",
		},
		"by the key": {
			"{image: \"r.example.com/a:v1\", tags: [latest], acceleration: {format: zstdchunked, level: 5}}",
			"r.example.com/a:v1 r.example.com/a:latest",
			"r.example.com/a:v1@ -> r.example.com/a:v1_accelerated zstdchunked 5; r.example.com/a:latest@ -> r.example.com/a:latest_accelerated zstdchunked 5",
		},
		"by one tag of two": {
			"{image: \"r.example.com/a:v1\", tags: [v1_accelerated]}",
			"r.example.com/a:v1", "r.example.com/a:v1@ -> r.example.com/a:v1_accelerated  0",
		},
		"although it is ACR": {
			"{image: \"r.example.com/a:v1_accelerated\", instanceID: cri-1, acceleration: {format: estargz}}",
			"r.example.com/a:v1", "r.example.com/a:v1@ -> r.example.com/a:v1_accelerated estargz 0",
		},
		"by nobody": {"{image: \"r.example.com/a:v1\"}", "r.example.com/a:v1", ""},
	} {
		b := &builder{}
		output, _, err := accelerate(t, b, tt.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var images, made []string
		for _, r := range b.request.Images {
			images = append(images, r.String())
		}
		for i, a := range b.accelerated {
			made = append(made, fmt.Sprintf("%s@ -> %s %s %d", a.From.WithDigest(""), a.To, a.Format, a.Level))
			if a.From.Digest().String() != built {
				t.Errorf("%s: converts %s", name, a.From)
			}
			if got := output.Accelerated[i]; got.Ref != a.To.String() || got.Digest != "sha256:1" {
				t.Errorf("%s: output is %+v", name, output)
			}
		}
		if got := strings.Join(images, " "); got != tt.images {
			t.Errorf("%s: built %s, want %s", name, got, tt.images)
		}
		if got := strings.Join(made, "; "); got != tt.made {
			t.Errorf("%s: made %s, want %s", name, got, tt.made)
		}
		if output.Image != b.request.Images[0].String() || output.Digest != built {
			t.Errorf("%s: output is %+v", name, output)
		}
	}
}

// acrOf is a registry that makes an accelerated image under a tag some time after it is asked the first time.
type acrOf struct {
	begin time.Time
	after time.Duration // negative: never
	tag   string
	was   map[string]string // before
	asked int
	fails error // until it is there
}

func (a *acrOf) named(r ref.Ref) (string, error) {
	a.asked++
	if a.after >= 0 && time.Since(a.begin) >= a.after && r.Tag() == a.tag {
		return "sha256:new", nil
	}
	if a.fails != nil && time.Since(a.begin) > time.Second {
		return "", a.fails
	}
	if d, ok := a.was[r.Tag()]; ok {
		return d, nil
	}
	return "", errs.NotFound
}

const acrTask = "{image: \"r.example.com/a:v1_accelerated\", instanceID: cri-1}"

func TestAcceleratedByACR(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		acr  acrOf
		want string
		took time.Duration // at most
	}{
		"soon":                    {acrOf{tag: "v1_accelerated", after: time.Millisecond}, "v1_accelerated sha256:new", 3 * time.Second},
		"some time later":         {acrOf{tag: "v1_accelerated", after: 100 * time.Second}, "v1_accelerated sha256:new", 120 * time.Second},
		"under the other tag":     {acrOf{tag: "v1_containerd_accelerated", after: 30 * time.Second}, "v1_containerd_accelerated sha256:new", 45 * time.Second},
		"over one that was there": {acrOf{tag: "v1_accelerated", after: 30 * time.Second, was: map[string]string{"v1_accelerated": "sha256:old"}}, "v1_accelerated sha256:new", 45 * time.Second},
		"of the same image":       {acrOf{after: -1, was: map[string]string{"v1": built, "v1_accelerated": "sha256:old"}}, "v1_accelerated sha256:old", time.Millisecond},
		"after trouble":           {acrOf{tag: "v1_accelerated", after: 200 * time.Second, fails: errs.Unavailable}, "v1_accelerated sha256:new", 225 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				acr := tt.acr
				acr.begin = time.Now()
				b := &builder{named: acr.named}
				output, told, err := accelerate(t, b, acrTask)
				if err != nil {
					t.Fatal(err)
				}
				if got := output.Accelerated[0]; got.Ref+" "+got.Digest != "r.example.com/a:"+tt.want {
					t.Errorf("got %+v, want %s", got, tt.want)
				}
				if took := time.Since(acr.begin); took > tt.took || took < tt.acr.after {
					t.Errorf("took %s", took)
				}
				if b.request.Images[0].Tag() != "v1" || len(b.accelerated) > 0 {
					t.Errorf("built %s, converted %v", b.request.Images, b.accelerated)
				}
				if told[0] != "waiting for the registry to make r.example.com/a:v1_accelerated" || !strings.Contains(told[len(told)-1], "is there after") {
					t.Errorf("told %q", told)
				}
				if lines := len(told); lines > 6 || tt.acr.after > 90*time.Second && lines < 3 {
					t.Errorf("told %d lines: %q", lines, told)
				}
			})
		})
	}
}

func TestACRFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acr := acrOf{begin: time.Now(), after: -1, was: map[string]string{"v1_accelerated": "sha256:old"}}
		_, _, err := accelerate(t, &builder{named: acr.named}, acrTask)
		want := "r.example.com/a:v1 was pushed, but the registry made no accelerated image of it, neither v1_accelerated nor v1_containerd_accelerated: hit the time limit of 15m of acceleration.timeout"
		if err == nil || err.Error() != want || pipeline.ClassOf(err) != pipeline.ClassTimeout {
			t.Errorf("never: %v", err)
		}
		if hint := errs.HintOf(err); !strings.Contains(hint, "rule for image acceleration") {
			t.Errorf("never: hint %q", hint)
		}
		if took := time.Since(acr.begin); took != 15*time.Minute || acr.asked > 200 {
			t.Errorf("never: after %s and %d questions", took, acr.asked)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		acr := acrOf{begin: time.Now(), after: -1}
		_, _, err := accelerate(t, &builder{named: acr.named}, "{image: \"r.example.com/a:v1\", instanceID: cri-1, acceleration: {format: acr, timeout: 20}}")
		if took := time.Since(acr.begin); !errors.Is(err, errs.Limit) || took != 20*time.Second {
			t.Errorf("a limit of 20 seconds: %v after %s", err, took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		acr := acrOf{begin: time.Now(), after: -1, fails: errs.Denied}
		if _, _, err := accelerate(t, &builder{named: acr.named}, acrTask); !errors.Is(err, errs.Denied) || time.Since(acr.begin) > 10*time.Second {
			t.Errorf("denied: %v after %s", err, time.Since(acr.begin))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		acr := acrOf{begin: time.Now(), after: -1, fails: errs.Unavailable}
		if _, _, err := accelerate(t, &builder{named: acr.named}, acrTask); !errors.Is(err, errs.Limit) || !strings.Contains(err.Error(), "(unavailable)") {
			t.Errorf("unavailable: %v", err)
		}
	})
}

func TestConfiguredSuffix(t *testing.T) {
	t.Parallel()
	b := &builder{}
	task, err := resolve("            build: {image: \"r.example.com/a:v1-lazy\", tags: [v2_accelerated]}\n")
	if err != nil {
		t.Fatal(err)
	}
	_, err = image.New(image.Options{Builder: pushing{b}, Suffixes: []string{"-lazy"}}).Work(t.Context(), &pipeline.Job{
		Task: task, Dir: t.TempDir(), Source: repository{"Dockerfile": ""}, Emit: func(pipeline.Event) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{b.request.Images[0].Tag(), b.request.Images[1].Tag(), b.accelerated[0].To.Tag()}
	if diff := cmp.Diff([]string{"v1", "v2_accelerated", "v1-lazy"}, got); diff != "" || len(b.accelerated) != 1 {
		t.Errorf("mismatch (-want +got):\n%s", diff)
	}
}
