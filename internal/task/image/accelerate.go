package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
)

// This file sees to accelerated images: those that start before they are fetched whole. A tag that ends with a suffix
// asks for one: the plain image goes to the tag without it. The registries of Alibaba Cloud's Enterprise edition make the
// accelerated image themselves, and the task waits for it; for all others the builder converts the plain one.

// Acceleration is an accelerated image to make.
type Acceleration struct {
	// From is the plain image, which has been pushed, with its digest.
	From ref.Ref
	// To is the tag of the accelerated one.
	To ref.Ref
	// Format and Level are as the file says; "" and 0 for the builder's choice.
	Format string
	Level  int
	// Progress takes the builder's own events.
	Progress func(event any)
}

// formatACR stands for whatever the registry makes.
const formatACR = "acr"

// Suffixes are what tags of accelerated images end with in Alibaba Cloud's registries, by default: of images that are
// converted as a whole, and of those that only get an index.
func Suffixes() []string { return []string{"_containerd_accelerated", "_accelerated"} }

// acrTime is how long a registry's own conversion is waited for, unless the file says otherwise.
const acrTime = 15 * time.Minute

// asked is what a task says of acceleration.
type asked struct {
	suffixes []string
	// all asks for it whatever the tags are.
	all    bool
	format string
	level  int
	// wait says that the registry makes the image, within limit.
	wait  bool
	limit time.Duration
}

func (w *Worker) asked(build *pipeline.Value, written, here ref.Ref) asked {
	v := build.Get("acceleration")
	a := asked{suffixes: w.opts.Suffixes, all: !v.Absent(), format: v.Get("format").String(), level: level(v), limit: acrTime}
	if n, ok := v.Get("timeout").Int(); ok {
		a.limit = time.Duration(n) * time.Second
	}
	byRegistry := build.Get("instanceID").String() != "" && w.opts.Converts(written, here)
	a.wait = a.format == formatACR || a.format == "" && byRegistry
	if a.format == formatACR {
		a.format = ""
	}
	return a
}

func level(acceleration *pipeline.Value) int {
	n, _ := acceleration.Get("level").Int() // 0 without
	return int(n)
}

// target is an image to push, and the accelerated one beside it.
type target struct {
	plain ref.Ref
	// accelerated are the tags under which the accelerated image may appear, the one to make first; none when nobody
	// asked for it.
	accelerated []ref.Ref
}

// split says what a reference asks for.
func (a asked) split(r ref.Ref) target {
	for _, suffix := range a.suffixes {
		tag, ok := strings.CutSuffix(r.Tag(), suffix)
		if !ok || tag == "" {
			continue
		}
		t := target{plain: r.WithTag(tag), accelerated: []ref.Ref{r}}
		for _, other := range a.suffixes {
			if other != suffix {
				t.accelerated = append(t.accelerated, r.WithTag(tag+other))
			}
		}
		return t
	}
	t := target{plain: r}
	if a.all {
		last := a.suffixes[len(a.suffixes)-1]
		t.accelerated = []ref.Ref{r.WithTag(r.Tag() + last)}
		for _, other := range a.suffixes[:len(a.suffixes)-1] {
			t.accelerated = append(t.accelerated, r.WithTag(r.Tag()+other))
		}
	}
	return t
}

// targets says what is to be built and pushed for the references that a task names, of which image is the first.
func (w *Worker) targets(build *pipeline.Value, image ref.Ref, named []ref.Ref) (asked, []target) {
	written, err := ref.Parse(build.Get("image").String())
	if err != nil {
		written = image // it was parsed before, to become image
	}
	a := w.asked(build, written, image)
	targets := make([]target, len(named))
	for i, r := range named {
		targets[i] = a.split(r)
	}
	return a, targets
}

// plains are the images to build, each once.
func plains(targets []target) []ref.Ref {
	var list []ref.Ref
	for _, t := range targets {
		if !slices.Contains(list, t.plain) {
			list = append(list, t.plain)
		}
	}
	return list
}

// waiting is what has to be known of tags before the plain image is pushed: afterwards, an accelerated image of an
// earlier one looks like one of this one.
type waiting struct {
	target
	before map[ref.Ref]string // digests, by tag
}

// look notes what tags name before the build.
func (w *Worker) look(ctx context.Context, a asked, targets []target) ([]waiting, error) {
	var list []waiting
	for _, t := range targets {
		if !a.wait || len(t.accelerated) == 0 {
			continue
		}
		before := map[ref.Ref]string{}
		for _, r := range append([]ref.Ref{t.plain}, t.accelerated...) {
			digest, err := w.opts.Builder.Named(ctx, r)
			if err != nil && !errors.Is(err, errs.NotFound) {
				return nil, err
			}
			before[r] = digest
		}
		list = append(list, waiting{t, before})
	}
	return list, nil
}

// accelerate makes the accelerated images of what was built, or waits for them.
func (w *Worker) accelerate(ctx context.Context, job *pipeline.Job, a asked, targets []target, waits []waiting, digest string) ([]pipeline.Image, error) {
	var made []pipeline.Image
	for _, wt := range waits {
		im, err := w.await(ctx, job, a, wt, digest)
		if err != nil {
			return nil, err
		}
		made = append(made, im)
	}
	if a.wait {
		return made, nil
	}
	for _, t := range targets {
		if len(t.accelerated) == 0 {
			continue
		}
		to := t.accelerated[0]
		got, err := w.opts.Builder.Accelerate(ctx, Acceleration{
			From: t.plain.WithDigest(oci.Digest(digest)), To: to, Format: a.format, Level: a.level, Progress: progress(job),
		})
		if err != nil {
			return nil, err
		}
		made = append(made, pipeline.Image{Ref: to.String(), Digest: got.Digest})
	}
	return made, nil
}

const (
	// firstPause and longestPause bound how often a registry is asked; each pause is half as long again as the last.
	firstPause   = 2 * time.Second
	longestPause = 20 * time.Second
	// tellAfter is how often somebody who waits is told so.
	tellAfter = time.Minute
)

// await waits for the accelerated image that the registry makes.
func (w *Worker) await(ctx context.Context, job *pipeline.Job, a asked, wt waiting, digest string) (pipeline.Image, error) {
	began := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, a.limit, errs.Limit)
	defer cancel()
	same := wt.before[wt.plain] == digest
	told := began
	job.Notice("waiting for the registry to make " + wt.accelerated[0].Familiar())
	for pause := firstPause; ; pause = min(pause+pause/2, longestPause) {
		im, err := w.appeared(limited, wt, same)
		if err == nil && im.Digest != "" {
			job.Notice(im.Ref + " is there after " + pipeline.Duration(time.Since(began).Round(time.Second)))
			return im, nil
		}
		if err != nil && !errors.Is(err, errs.Unavailable) && limited.Err() == nil {
			return pipeline.Image{}, err
		}
		if now := time.Now(); now.Sub(told) >= tellAfter && limited.Err() == nil {
			told = now
			text := "still waiting for " + wt.accelerated[0].Familiar() + ", for " + pipeline.Duration(now.Sub(began).Round(time.Second))
			if err != nil {
				text += ": " + err.Error()
			}
			job.Notice(text)
		}
		select {
		case <-time.After(pause):
		case <-limited.Done():
			if ctx.Err() != nil {
				return pipeline.Image{}, context.Cause(ctx)
			}
			return pipeline.Image{}, never(wt, a.limit, err)
		}
	}
}

// appeared looks whether one of the tags names another image than before. When the plain image is the same as before,
// so is the accelerated one.
func (w *Worker) appeared(ctx context.Context, wt waiting, same bool) (pipeline.Image, error) {
	for _, r := range wt.accelerated {
		digest, err := w.opts.Builder.Named(ctx, r)
		switch {
		case errors.Is(err, errs.NotFound):
		case err != nil:
			return pipeline.Image{}, err
		case same || digest != wt.before[r]:
			return pipeline.Image{Ref: r.String(), Digest: digest}, nil
		}
	}
	return pipeline.Image{}, nil
}

// never is the error for an image that does not come.
func never(wt waiting, limit time.Duration, last error) error {
	names := make([]string, len(wt.accelerated))
	for i, r := range wt.accelerated {
		names[i] = r.Tag()
	}
	what := wt.plain.Familiar() + " was pushed, but the registry made no accelerated image of it, neither " + strings.Join(names, " nor ")
	if last != nil {
		what += " (" + last.Error() + ")"
	}
	err := fmt.Errorf("%s: %w", what, &pipeline.LimitError{Resource: "time", Limit: pipeline.Duration(limit), Source: "acceleration.timeout"})
	return errs.Hint(err, "look whether the instance is of the Standard or Advanced edition, whether a rule for image acceleration covers the repository "+
		"and the tag, and what became of the conversion in the console; acceleration: {format: estargz} converts the image here instead")
}
