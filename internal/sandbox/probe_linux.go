package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Finding is one thing about this machine that decides what slipway can do on it.
type Finding struct {
	Name   string // short and stable: "sandbox", "cgroups"
	OK     bool
	Detail string // what was found
	Hint   string // what to do about it; empty when OK
}

// Probe looks at the machine for the doctor command. home is the folder below which snapshots will lie; Probe runs a
// sandbox in a temporary folder there.
func Probe(ctx context.Context, home string) []Finding {
	return []Finding{
		probeRoot(), probeKernel(), probeSandbox(ctx, home), probeSeccomp(), probeUserNamespaces(), probeCgroups(),
		probeFuse(), probeEmulation(),
	}
}

func probeRoot() Finding {
	f := Finding{Name: "root", OK: os.Geteuid() == 0, Detail: fmt.Sprintf("user %d", os.Geteuid())}
	if !f.OK {
		f.Hint = "run as root; in a container add CAP_SYS_ADMIN"
	}
	return f
}

// probeKernel compares with 5.6, the first to open paths inside a root (openat2).
func probeKernel() Finding {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Finding{Name: "kernel", Detail: err.Error()}
	}
	release := unix.ByteSliceToString(uts.Release[:])
	fd, err := openIn(unix.AT_FDCWD, ".", unix.RESOLVE_BENEATH)
	if err != nil {
		return Finding{Name: "kernel", Detail: release, Hint: "slipway needs Linux 5.6 or later, and openat2 not filtered"}
	}
	return Finding{Name: "kernel", OK: unix.Close(fd) == nil, Detail: release}
}

// probeSandbox has a sandbox made for a command that does not exist. That it is not found says everything else worked.
func probeSandbox(ctx context.Context, home string) Finding {
	f := Finding{Name: "sandbox", Detail: "namespaces, overlay and mounts work in " + home}
	err := trySandbox(ctx, home)
	if f.OK = err == nil; !f.OK {
		f.Detail, f.Hint = err.Error(), errs.HintOf(err)
	}
	return f
}

func trySandbox(ctx context.Context, home string) (err error) {
	dir, err := os.MkdirTemp(home, "doctor-")
	if err != nil {
		return fmt.Errorf("make a folder to try in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	spec := &Spec{
		Stub: filepath.Join(dir, "stub"), Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		Args: []string{"/no/such/command"},
	}
	for _, d := range []string{spec.Upper, spec.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := MakeStub(spec.Stub); err != nil {
		return err
	}
	if res, err := Run(ctx, spec); res.ExitCode != exitNotFound {
		return err
	}
	return nil
}

func probeSeccomp() Finding {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return Finding{Name: "seccomp", Detail: errno.Error(), Hint: "use a kernel with CONFIG_SECCOMP_FILTER"}
	}
	return Finding{Name: "seccomp", OK: true, Detail: "filters are supported"}
}

// probeUserNamespaces starts init, without anything to do, in a namespace where it is root and nobody outside.
func probeUserNamespaces() Finding {
	f := Finding{Name: "user namespaces", Detail: "can be made"}
	if err := tryUserNamespace(); err != nil {
		f.Detail = err.Error()
		f.Hint = "needed without root only: sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns"
		return f
	}
	f.OK = true
	return f
}

func tryUserNamespace() error {
	prog, err := ownProgram()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := prog.start([]string{initName}, &os.ProcAttr{
		Files: []*os.File{null, null, null, null},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		},
	})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

func probeCgroups() Finding {
	f := Finding{Name: "cgroups", Hint: "limits of memory and processors need a writable cgroup file system"}
	h, err := hierarchy()
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	available, err := h.Controllers()
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("version %d: %s", h.Version(), strings.Join(available, " "))
	if f.OK = h.Writable(); f.OK {
		f.Hint = ""
	}
	return f
}

func probeFuse() Finding {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return Finding{Name: "fuse", Detail: err.Error(), Hint: "needed to mount lazily loaded images only: modprobe fuse, --device /dev/fuse"}
	}
	return Finding{Name: "fuse", OK: f.Close() == nil, Detail: "/dev/fuse"}
}

// probeEmulation lists the foreign platforms whose programs the kernel hands to an emulator.
func probeEmulation() Finding {
	const dir = "/proc/sys/fs/binfmt_misc"
	f := Finding{Name: "emulation", Hint: "needed to run other platforms' images only: install qemu-user-static"}
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	var found []string
	for _, e := range entries {
		arch, ok := strings.CutPrefix(e.Name(), "qemu-")
		if ok && usable(filepath.Join(dir, e.Name())) {
			found = append(found, arch)
		}
	}
	if len(found) == 0 {
		f.Detail = "no foreign platforms"
		return f
	}
	return Finding{Name: f.Name, OK: true, Detail: strings.Join(found, " ")}
}

// usable tells whether an emulator is enabled and was opened when it was registered (flag F), so that it works in a root
// that does not have it.
func usable(entry string) bool {
	data, err := os.ReadFile(entry)
	if err != nil {
		return false
	}
	enabled, opened := false, false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		flags, ok := strings.CutPrefix(line, "flags: ")
		enabled = enabled || line == "enabled"
		opened = opened || ok && strings.Contains(flags, "F")
	}
	return enabled && opened
}
