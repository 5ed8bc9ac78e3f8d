package solver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// binfmtDir is where the kernel tells which programs run binaries of other architectures (binfmt_misc).
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// canRun says whether processes of a platform run on this machine: natively, or by a handler that the kernel was given.
func canRun(p oci.Platform, machine, dir string) error {
	if p.OS != "linux" {
		return fmt.Errorf("run for %s: only linux can be run: %w", oci.FormatPlatform(p), errs.Invalid)
	}
	if p.Architecture == machine || machine == "amd64" && p.Architecture == "386" {
		return nil
	}
	handler := "qemu-" + qemuName(p)
	data, err := os.ReadFile(filepath.Join(dir, handler))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("no binfmt handler %s", handler)
	case err != nil:
	case !strings.HasPrefix(string(data), "enabled"):
		err = fmt.Errorf("binfmt handler %s is switched off", handler)
	case !hasFlag(string(data), 'F'):
		// Without F the kernel looks for the emulator inside the image.
		err = fmt.Errorf("binfmt handler %s was registered without the flag F", handler)
	}
	if err == nil {
		return nil
	}
	return errs.Hint(fmt.Errorf("run for %s on linux/%s: %w", oci.FormatPlatform(p), machine, errs.Mark(err, errs.Unavailable)),
		"install an emulator (apt-get install qemu-user-static binfmt-support), or let the stage run natively and cross-compile: FROM --platform=$BUILDPLATFORM")
}

func hasFlag(handler string, flag rune) bool {
	for line := range strings.Lines(handler) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			return strings.ContainsRune(flags, flag)
		}
	}
	return false
}

// qemuName is how QEMU calls an architecture.
func qemuName(p oci.Platform) string {
	switch p.Architecture {
	case "386":
		return "i386"
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "loong64":
		return "loongarch64"
	case "mips64le":
		return "mips64el"
	default:
		return p.Architecture
	}
}

// runnable is canRun for the machine that slipway runs on.
func runnable(p oci.Platform) error { return canRun(p, runtime.GOARCH, binfmtDir) }
