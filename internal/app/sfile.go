package app

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"

	"slipway/internal/deploy/sfile"
	"slipway/internal/mistake"
)

// SFiles takes the s.yaml files out of a list of files: those that say edition or services in place of kind. A file that
// cannot be read is left for whoever reads the others.
func SFiles(names []string) (ours, others []string) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err == nil && info.Mode().IsRegular() && info.Size() <= sfile.MaxSize {
			if data, err := os.ReadFile(name); err == nil && isSFile(data) {
				ours = append(ours, name)
				continue
			}
		}
		others = append(others, name)
	}
	return ours, others
}

func isSFile(data []byte) bool {
	keys := []string{"edition", "services", "resources"}
	found := false
	for line := range bytes.Lines(data) {
		key, _, ok := bytes.Cut(line, []byte(":"))
		switch name := string(bytes.TrimRight(key, " ")); {
		case !ok:
		case name == "kind" || name == "apiVersion":
			return false
		case slices.Contains(keys, name):
			found = true
		}
	}
	return found
}

// CheckSFile checks an s.yaml and the files it extends. What only a deployment knows (variables, credentials, outputs) may
// be missing. Mistakes are a mistake.Errors.
func CheckSFile(name string) (mistake.Errors, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	_, warnings, err := sfile.Load(name, data, sfile.Options{
		Check: true,
		ReadFile: func(path string) ([]byte, error) {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(name), path)
			}
			return os.ReadFile(path)
		},
	})
	return warnings, err
}
