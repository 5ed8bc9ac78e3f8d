package compile

import (
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// Machines lists the GOARCH values that Docker can compile for.
func Machines() []string { return []string{"amd64", "arm64"} }

// Capabilities are Docker's default ones, which the sandbox gives to root.
func Capabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// Docker compiles Docker's default profile for a machine and a set of capabilities (CAP_CHOWN …).
func Docker(goarch string, caps []string) ([]bpf.RawInstruction, error) {
	arches, err := Arches(goarch)
	if err != nil {
		return nil, err
	}
	flat, err := Flatten(profiles.DefaultProfile(), goarch, caps)
	if err != nil {
		return nil, err
	}
	return Program(flat, arches)
}

// Arches are the system call tables a kernel for goarch can serve.
func Arches(goarch string) ([]Arch, error) {
	switch goarch {
	case "amd64":
		return []Arch{table(arch.X86_64), table(arch.I386), table(arch.X32)}, nil
	case "arm64":
		return []Arch{table(arch.AARCH64), table(arch.ARM)}, nil
	}
	return nil, fmt.Errorf("no system call tables for %s", goarch)
}

func table(info *arch.Info) Arch {
	return Arch{Name: info.Name, Audit: uint32(info.ID), Calls: info.SyscallNumbers, Bit: uint32(info.SeccompMask)}
}

// Flatten decides the conditional rules of a profile: on the machine, on the capabilities of the bounding set, and on
// the kernel, of which it requires that every rule holds since 5.6, the oldest the sandbox runs on.
func Flatten(p *profiles.Seccomp, goarch string, caps []string) (*specs.LinuxSeccomp, error) {
	flat := p.LinuxSeccomp
	for _, call := range p.Syscalls {
		if in, out := call.Includes, call.Excludes; matchesAny(out, goarch, caps) || !matchesAll(in, goarch, caps) {
			continue
		}
		if tooNew(call.Includes) || tooNew(call.Excludes) {
			return nil, fmt.Errorf("rule for %v depends on a kernel newer than 5.6", call.Names)
		}
		flat.Syscalls = append(flat.Syscalls, call.LinuxSyscall)
	}
	return &flat, nil
}

func tooNew(f *profiles.Filter) bool {
	if f == nil || f.MinKernel == nil {
		return false
	}
	k := *f.MinKernel
	return k.Kernel > 5 || k.Kernel == 5 && k.Major > 6
}

func matchesAny(f *profiles.Filter, goarch string, caps []string) bool {
	if f == nil {
		return false
	}
	return slices.Contains(f.Arches, goarch) || slices.ContainsFunc(f.Caps, func(c string) bool { return slices.Contains(caps, c) })
}

func matchesAll(f *profiles.Filter, goarch string, caps []string) bool {
	if f == nil {
		return true
	}
	if len(f.Arches) > 0 && !slices.Contains(f.Arches, goarch) {
		return false
	}
	return !slices.ContainsFunc(f.Caps, func(c string) bool { return !slices.Contains(caps, c) })
}
