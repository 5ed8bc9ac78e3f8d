package solver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

func TestCanRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"qemu-aarch64": "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n",
		"qemu-riscv64": "disabled\ninterpreter /usr/bin/qemu-riscv64-static\nflags: OCF\n",
		"qemu-s390x":   "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: OC\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ platform, err string }{
		{"linux/amd64", ""},
		{"linux/386", ""},
		{"linux/arm64", ""},
		{"linux/riscv64", "binfmt handler qemu-riscv64 is switched off"},
		{"linux/s390x", "registered without the flag F"},
		{"linux/ppc64le", "run for linux/ppc64le on linux/amd64: no binfmt handler qemu-ppc64le"},
		{"windows/amd64", "only linux can be run"},
	} {
		p, err := oci.ParsePlatform(tc.platform)
		if err != nil {
			t.Fatal(err)
		}
		err = canRun(p, "amd64", dir)
		if tc.err == "" {
			if err != nil {
				t.Errorf("canRun(%s) = %v", tc.platform, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("canRun(%s) = %v, want %q", tc.platform, err, tc.err)
		}
		if p.OS == "linux" && (!errors.Is(err, errs.Unavailable) || !strings.Contains(errs.HintOf(err), "qemu-user-static")) {
			t.Errorf("canRun(%s): kind or hint is missing: %v", tc.platform, err)
		}
	}
}
