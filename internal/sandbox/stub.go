package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
)

// MakeStub fills dir, to be used as Spec.Stub, with the mount points that every sandbox needs. dir may exist.
func MakeStub(dir string) error {
	for _, d := range []string{"proc", "sys", "dev", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return fmt.Errorf("make stub layer: %w", err)
		}
	}
	for _, f := range []string{"etc/hosts", "etc/resolv.conf"} {
		file, err := os.OpenFile(filepath.Join(dir, f), os.O_CREATE|os.O_RDONLY, 0o644)
		if err == nil {
			err = file.Close()
		}
		if err != nil {
			return fmt.Errorf("make stub layer: %w", err)
		}
	}
	return nil
}
