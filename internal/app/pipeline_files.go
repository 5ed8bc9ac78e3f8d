package app

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/pipeline/spec"
)

// PipelineFiles reads pipeline files. A folder stands for the pipeline files right in it, by name. A file that is named
// twice is read once.
func PipelineFiles(names []string) ([]*spec.File, error) {
	var files []*spec.File
	seen := map[string]bool{}
	add := func(name string, data []byte) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			files = append(files, spec.Parse(name, data))
		}
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("read the pipeline: %w", errs.Mark(err, errs.Invalid))
		}
		if info.IsDir() {
			if err := pipelineFolder(name, add); err != nil {
				return nil, err
			}
			continue
		}
		data, err := readPipeline(name)
		if err != nil {
			return nil, err
		}
		add(name, data)
	}
	return files, nil
}

// pipelineFolder adds the pipeline files of a folder. A repository's YAML is of many kinds, and only some of it is ours.
func pipelineFolder(dir string, add func(name string, data []byte)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the pipelines of a folder: %w", err)
	}
	found := false
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if ext := filepath.Ext(name); ext != ".yaml" && ext != ".yml" {
			continue
		}
		if info, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		data, err := readPipeline(name)
		if err != nil {
			return err
		}
		if isPipelineFile(data) {
			found = true
			add(name, data)
		}
	}
	if !found {
		err := fmt.Errorf("%s has no pipeline files: %w", dir, errs.Invalid)
		return errs.Hint(err, "a pipeline file is *.yaml or *.yml, right in the folder, and begins with kind: Pipeline")
	}
	return nil
}

// isPipelineFile tells our documents, misspelt kinds included, from those of Kubernetes, which have a kind too, and
// from all others. It looks at the text, since a file with a mistake in it is the one that must not be passed over.
func isPipelineFile(data []byte) bool {
	ours := false
	for line := range bytes.Lines(data) {
		key, _, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		switch strings.Trim(string(bytes.TrimRight(key, " ")), `"'`) {
		case "kind":
			ours = true
		case "apiVersion":
			return false
		}
	}
	return ours
}

// readPipeline reads a pipeline file, within the size that one may have.
func readPipeline(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read the pipeline: %w", errs.Mark(err, errs.Invalid))
	}
	if info.Size() > spec.MaxSize {
		return nil, fmt.Errorf("read the pipeline: %s is larger than %d bytes: %w", name, spec.MaxSize, errs.Invalid)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the pipeline: %w", err)
	}
	return data, nil
}

// where is the folder of the first name, for finding the repository.
func where(names []string) string {
	first := slices.Concat(names, []string{"."})[0]
	if info, err := os.Stat(first); err == nil && info.IsDir() {
		return first
	}
	return filepath.Dir(first)
}
