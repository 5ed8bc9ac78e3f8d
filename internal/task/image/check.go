package image

import (
	"path/filepath"
	"strconv"
	"strings"

	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
)

// Check reports mistakes in warm and build; see pipeline.Worker.
func (w *Worker) Check(t *pipeline.Task, report pipeline.Report) {
	build, warm := t.Data.Get("build"), t.Data.Get("warm")
	if build.Absent() && warm.Absent() {
		report(t.Origin, "the task "+t.Name+" has neither build nor warm in its context.data", "add build: {image: REGISTRY/REPOSITORY:TAG}")
	}
	if !build.Absent() {
		w.checkBuild(t, build, report)
	}
	if !warm.Absent() {
		checkWarm(t, warm, report)
	}
}

func (w *Worker) checkBuild(t *pipeline.Task, build *pipeline.Value, report pipeline.Report) {
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
	checkTags(build, report)
	checkPlatforms(build.Get("platforms"), report)
	checkSecrets(build.Get("secrets"), report)
	checkCache(build.Get("cache"), report)
	w.checkAcceleration(build, report)
}

func (w *Worker) checkAcceleration(build *pipeline.Value, report pipeline.Report) {
	v, image := build.Get("acceleration"), build.Get("image")
	format := v.Get("format")
	switch {
	case v.Absent():
	case format.String() == formatACR && level(v) != 0:
		report(v.Get("level").Origin, "level has no meaning for what the registry makes", "remove it, or write another format")
	case format.String() == formatACR && build.Get("instanceID").String() == "":
		report(format.Origin, "format acr needs the instance that makes the image", "add instanceID: cri-…")
	case format.String() != formatACR && !v.Get("timeout").Absent():
		report(v.Get("timeout").Origin, "timeout is for what the registry makes", "remove it, or write format: acr")
	case format.String() != formatACR && !open(format.String()):
		if err := w.opts.CheckFormat(format.String(), level(v)); err != nil {
			report(v.Origin, err.Error(), "see docs/acceleration.md")
		}
	}
	r, err := ref.Parse(image.String())
	if image.Absent() || open(image.String()) || err != nil {
		return
	}
	for _, suffix := range w.opts.Suffixes {
		if r.Tag() == suffix {
			report(image.Origin, "the tag "+suffix+" is only what says that the image is to be accelerated", "write a tag before it, such as v1"+suffix)
		}
	}
	if longest := w.opts.Suffixes[0]; !v.Absent() && !strings.HasSuffix(r.Tag(), w.opts.Suffixes[len(w.opts.Suffixes)-1]) && !ref.ValidTag(r.Tag()+longest) {
		report(image.Origin, "the tag is too long for that of the accelerated image, which has "+longest+" after it", "write a shorter one")
	}
}

// each calls f for the items of a list that are known by now.
func each(list *pipeline.Value, f func(v *pipeline.Value)) {
	if list == nil {
		return
	}
	for _, v := range list.Items {
		if !v.Absent() && !open(v.String()) {
			f(v)
		}
	}
}

func checkTags(build *pipeline.Value, report pipeline.Report) {
	each(build.Get("tags"), func(v *pipeline.Value) {
		if strings.Contains(v.String(), "/") {
			checkTarget(v, report)
			return
		}
		if r, err := ref.Parse("tag:" + v.String()); err != nil || r.Tag() != v.String() {
			report(v.Origin, "tags has "+strconv.Quote(v.String())+", which is no tag", "write a tag beside image's, such as latest, or REGISTRY/REPOSITORY:TAG")
		}
	})
}

func checkPlatforms(list *pipeline.Value, report pipeline.Report) {
	seen := map[string]bool{}
	each(list, func(v *pipeline.Value) {
		p, err := oci.ParsePlatform(v.String())
		switch name := oci.FormatPlatform(p); {
		case err != nil:
			report(v.Origin, err.Error(), "for example linux/amd64 or linux/arm64")
		case seen[name]:
			report(v.Origin, "the platform "+name+" is there already", "remove one of them")
		default:
			seen[name] = true
		}
	})
}

func checkSecrets(list *pipeline.Value, report pipeline.Report) {
	seen := map[string]bool{}
	each(list, func(v *pipeline.Value) {
		id, env, file := v.Get("id").String(), v.Get("env").String(), v.Get("file").String()
		switch {
		case id == "": // the table of keys says so
		case seen[id]:
			report(v.Get("id").Origin, "a second secret with the id "+id, "give each its own id")
		case (env == "") == (file == ""):
			report(v.Origin, "the secret "+id+" needs either env or file", "add env: VARIABLE, and give its value with --env VARIABLE")
		case file != "" && !open(file) && !filepath.IsAbs(file) && !filepath.IsLocal(file):
			report(v.Get("file").Origin, "file "+file+" leads out of the repository", "write a path relative to the repository's top, or an absolute one in a NAS mount")
		}
		seen[id] = true
	})
}

func checkCache(cache *pipeline.Value, report pipeline.Report) {
	if s := cache.String(); s != "" {
		checkCacheRef(cache, true, report)
		return
	}
	each(cache.Get("from"), func(v *pipeline.Value) { checkCacheItem(v, false, report) })
	each(cache.Get("to"), func(v *pipeline.Value) { checkCacheItem(v, true, report) })
}

func checkCacheItem(v *pipeline.Value, write bool, report pipeline.Report) {
	if v.Kind != pipeline.Map {
		checkCacheRef(v, write, report)
		return
	}
	kind, at, dir := v.Get("type").String(), v.Get("ref"), v.Get("dir")
	if kind == "" && !dir.Absent() {
		kind = "local"
	}
	switch {
	case kind == "inline" && !write:
		report(v.Origin, "a cache of type inline is only written", "read it as {ref: IMAGE}")
	case kind == "inline" && v.Get("mode").String() == "max":
		report(v.Get("mode").Origin, "an image holds the results of its own stages alone", "write mode: min, or {ref: REGISTRY/REPOSITORY:TAG, mode: max}")
	case kind == "inline":
	case kind == "local" && dir.Absent():
		report(v.Origin, "a cache of type local needs a dir", "add dir: a folder in a NAS mount")
	case kind == "local":
		if !open(dir.String()) && !filepath.IsAbs(dir.String()) {
			report(dir.Origin, "dir "+dir.String()+" must be an absolute path", "for example /mnt/cache/steps, in a NAS mount")
		}
	case at.Absent():
		report(v.Origin, "a cache needs a ref or a dir", "for example {ref: REGISTRY/REPOSITORY:TAG}")
	default:
		checkCacheRef(at, write, report)
	}
}

func checkCacheRef(v *pipeline.Value, write bool, report pipeline.Report) {
	if r, ok := checkRef(v, report); ok && write && r.Digest() != "" {
		report(v.Origin, "the cache to write has a digest, which is what comes of writing", "write "+r.WithDigest("").String())
	}
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
