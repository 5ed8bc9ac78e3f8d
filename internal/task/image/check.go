package image

import (
	"path/filepath"
	"strings"

	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
)

// accelerated is the suffix of a tag that asks for a lazily loading image beside the plain one.
const accelerated = "_accelerated"

// Check reports mistakes in warm and build; see pipeline.Worker.
func (w *Worker) Check(t *pipeline.Task, report pipeline.Report) {
	build, warm := t.Data.Get("build"), t.Data.Get("warm")
	if build.Absent() && warm.Absent() {
		report(t.Origin, "the task "+t.Name+" has neither build nor warm in its context.data", "add build: {image: REGISTRY/REPOSITORY:TAG}")
	}
	if !build.Absent() {
		checkBuild(t, build, report)
	}
	if !warm.Absent() {
		checkWarm(t, warm, report)
	}
}

func checkBuild(t *pipeline.Task, build *pipeline.Value, report pipeline.Report) {
	if image := build.Get("image"); image.String() == "" {
		report(t.Data.KeyAt("build"), "build needs an image", "add image: REGISTRY/REPOSITORY:TAG")
	} else {
		checkTarget(image, report)
	}
	for _, key := range []string{"dockerfile", "context"} {
		v := build.Get(key)
		if name := v.String(); name != "" && !open(name) && !filepath.IsLocal(name) {
			report(v.Origin, key+" "+name+" leads out of the repository", "write a path relative to the repository's top")
		}
	}
	checkCacheDir(build.Get("cacheDir"), report)
}

func checkWarm(t *pipeline.Task, warm *pipeline.Value, report pipeline.Report) {
	images := warm.Get("images")
	if images == nil || len(images.Items) == 0 {
		report(t.Data.KeyAt("warm"), "warm needs images", "add images: [REGISTRY/REPOSITORY:TAG]")
	} else {
		for _, image := range images.Items {
			checkRef(image, report)
		}
	}
	if warm.Get("cacheDir").String() == "" {
		report(t.Data.KeyAt("warm"), "warm needs a cacheDir", "add cacheDir: a folder in a NAS mount")
	}
	checkCacheDir(warm.Get("cacheDir"), report)
}

// checkTarget checks a reference to push to.
func checkTarget(v *pipeline.Value, report pipeline.Report) {
	r, ok := checkRef(v, report)
	switch {
	case !ok:
	case r.Digest() != "":
		report(v.Origin, "image has a digest: an image is pushed to a tag, its digest is what comes of it", "write "+r.WithDigest("").String())
	case strings.HasSuffix(r.Tag(), accelerated):
		plain := r.WithTag(strings.TrimSuffix(r.Tag(), accelerated))
		report(v.Origin, "accelerated images are not supported", "build the plain image: "+plain.Familiar())
	}
}

// checkRef checks a reference; ok is false when it has been reported, or is not known yet.
func checkRef(v *pipeline.Value, report pipeline.Report) (r ref.Ref, ok bool) {
	if v.Absent() || open(v.String()) {
		return ref.Ref{}, false
	}
	r, err := ref.Parse(v.String())
	if err == nil {
		return r, true
	}
	hint := "write REGISTRY/REPOSITORY:TAG"
	if strings.Contains(v.String(), "***") {
		hint = "put your own name where the documentation has ***"
	}
	report(v.Origin, err.Error(), hint)
	return ref.Ref{}, false
}

func checkCacheDir(v *pipeline.Value, report pipeline.Report) {
	if dir := v.String(); dir != "" && !open(dir) && !filepath.IsAbs(dir) {
		report(v.Origin, "cacheDir "+dir+" must be an absolute path", "for example /mnt/image-cache, in a NAS mount")
	}
}

// open reports whether a text still holds a <% %> that could not be evaluated, which has been reported.
func open(text string) bool { return strings.Contains(text, "<%") }
