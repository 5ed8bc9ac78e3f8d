package image

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
)

// This file reads what build may say beside Dockerfile, context and image.

// Cache is a place outside this machine that keeps results of steps.
type Cache struct {
	// One of the three says where: a tag of a registry, not mapped yet; a folder of this machine; the image itself.
	Ref    string
	Dir    string
	Inline bool
	// Max keeps the results of all stages, not only of those that the image is made of.
	Max bool
}

// maxSecret is what a secret's file may have.
const maxSecret = 500 << 10

// tags returns the references to push to, image first, each once. A word without a slash is a tag beside image's own.
func tags(image ref.Ref, build *pipeline.Value, locate func(*pipeline.Value) (ref.Ref, error)) ([]ref.Ref, error) {
	all := []ref.Ref{image}
	list := build.Get("tags")
	if list == nil {
		return all, nil
	}
	for _, v := range list.Items {
		r := image.WithTag(v.String())
		if strings.Contains(v.String(), "/") {
			var err error
			if r, err = locate(v); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all, nil
}

// scalars returns a map of scalars as they are written.
func scalars(v *pipeline.Value) map[string]string {
	if v == nil || len(v.Members) == 0 {
		return nil
	}
	out := make(map[string]string, len(v.Members))
	for _, m := range v.Members {
		out[m.Key] = m.Value.String()
	}
	return out
}

// secrets reads the values of build.secrets: from the task's environment, a file of the repository, or one in a mount.
// What slipway's own environment holds is not for pipelines to name.
func secrets(job *pipeline.Job, root string, build *pipeline.Value) (map[string][]byte, error) {
	list := build.Get("secrets")
	if list == nil {
		return nil, nil
	}
	values := map[string][]byte{}
	for _, v := range list.Items {
		value, err := secret(job, root, v)
		if err != nil {
			return nil, at(v, job.Task, fmt.Errorf("secret %s: %w", v.Get("id"), err))
		}
		values[v.Get("id").String()] = value
	}
	return values, nil
}

func secret(job *pipeline.Job, root string, v *pipeline.Value) ([]byte, error) {
	if name := v.Get("env").String(); name != "" {
		value, ok := job.Task.Env[name]
		if !ok {
			return nil, errs.Hint(fmt.Errorf("the task's environment has no %s", name), "give it with --env "+name+", which takes the value from your own environment")
		}
		return []byte(value), nil
	}
	name := path.Clean(v.Get("file").String())
	if path.IsAbs(name) {
		mount, below, ok := job.Environment.Inside(name)
		switch {
		case !ok:
			return nil, errs.Hint(fmt.Errorf("%s is in no NAS mount", name), "mount the folder that has it, or name a file of the repository")
		case mount.Folder == "":
			return nil, errs.Hint(fmt.Errorf("%s is on %s, which is no folder of this machine", name, mount.Server), "--map-nas "+mount.Server+"=DIR says which folder stands for it")
		}
		root, name = mount.Folder, below
	}
	return readInside(root, name)
}

// readInside reads a small file below a folder, out of which no link leads.
func readInside(folder, name string) ([]byte, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close() // only read
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	value, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(value) > maxSecret {
		err = fmt.Errorf("%s has more than %d bytes", name, maxSecret)
	}
	return value, err
}

// caches returns where results of steps are read from and written to. A cache that is a word alone is both.
func caches(job *pipeline.Job, build *pipeline.Value) (from, to []Cache, err error) {
	v := build.Get("cache")
	if s := v.String(); s != "" {
		return []Cache{{Ref: s}}, []Cache{{Ref: s, Max: true}}, nil
	}
	if from, err = cacheList(job, v.Get("from")); err != nil {
		return nil, nil, err
	}
	to, err = cacheList(job, v.Get("to"))
	return from, to, err
}

func cacheList(job *pipeline.Job, list *pipeline.Value) ([]Cache, error) {
	if list == nil {
		return nil, nil
	}
	var out []Cache
	for _, v := range list.Items {
		if s := v.String(); s != "" {
			out = append(out, Cache{Ref: s})
			continue
		}
		dir, err := cacheDir(job, v.Get("dir"))
		if err != nil {
			return nil, err
		}
		out = append(out, Cache{
			Ref: v.Get("ref").String(), Dir: dir,
			Inline: v.Get("type").String() == "inline", Max: v.Get("mode").String() == "max",
		})
	}
	return out, nil
}
