package compile_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/google/go-cmp/cmp"
	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"slipway/internal/sandbox/seccomp/compile"
)

const (
	allow  = uint32(unix.SECCOMP_RET_ALLOW)
	eperm  = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	enosys = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
	kill   = uint32(unix.SECCOMP_RET_KILL_PROCESS)
)

// machine runs a program as the kernel would. The interpreter of x/net/bpf reads packets, which are big-endian, so the
// words of struct seccomp_data are laid out that way.
type machine struct{ vm *bpf.VM }

func newMachine(t testing.TB, goarch string) machine {
	t.Helper()
	raw, err := compile.Docker(goarch, compile.Capabilities())
	if err != nil {
		t.Fatal(err)
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has instructions that cannot be disassembled")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

func (m machine) call(t testing.TB, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], nr)
	binary.BigEndian.PutUint32(data[4:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	ret, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(ret)
}

func TestKnownCalls(t *testing.T) {
	t.Parallel()
	const namespaces = unix.CLONE_NEWUSER
	tests := []struct {
		name string
		arch *arch.Info
		call string
		args []uint64
		want uint32
	}{
		{"read", arch.X86_64, "read", nil, allow},
		{"read by i386", arch.I386, "read", nil, allow},
		{"read by x32", arch.X32, "read", nil, allow},
		{"mount", arch.X86_64, "mount", nil, eperm},
		{"mount by i386", arch.I386, "mount", nil, eperm},
		{"mount by x32", arch.X32, "mount", nil, eperm},
		{"new mount API", arch.X86_64, "fsopen", nil, eperm},
		{"setns", arch.X86_64, "setns", nil, eperm},
		{"unshare", arch.X86_64, "unshare", []uint64{namespaces}, eperm},
		{"keyctl", arch.X86_64, "keyctl", nil, eperm},
		{"bpf", arch.X86_64, "bpf", nil, eperm},
		{"kexec_load", arch.X86_64, "kexec_load", nil, eperm},
		{"reboot", arch.X86_64, "reboot", nil, eperm},
		{"io_uring_setup", arch.X86_64, "io_uring_setup", nil, eperm},
		{"userfaultfd", arch.X86_64, "userfaultfd", nil, eperm},
		{"open_by_handle_at", arch.X86_64, "open_by_handle_at", nil, eperm},
		{"chroot", arch.X86_64, "chroot", nil, allow},
		{"ptrace", arch.X86_64, "ptrace", nil, allow},
		{"clone of a thread", arch.X86_64, "clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
		{"clone of a user namespace", arch.X86_64, "clone", []uint64{namespaces | uint64(unix.SIGCHLD)}, eperm},
		{"clone with high bits", arch.X86_64, "clone", []uint64{1 << 40}, allow},
		{"clone3", arch.X86_64, "clone3", nil, enosys},
		{"clone3 by i386", arch.I386, "clone3", nil, enosys},
		{"unix socket", arch.X86_64, "socket", []uint64{unix.AF_UNIX}, allow},
		{"netlink socket", arch.X86_64, "socket", []uint64{unix.AF_NETLINK}, allow},
		{"vsock socket", arch.X86_64, "socket", []uint64{unix.AF_VSOCK}, eperm},
		{"crypto socket", arch.X86_64, "socket", []uint64{unix.AF_ALG}, eperm},
		{"crypto socket in the high half", arch.X86_64, "socket", []uint64{1<<32 | unix.AF_UNIX}, eperm},
		{"personality query", arch.X86_64, "personality", []uint64{0xffffffff}, allow},
		{"personality without randomisation", arch.X86_64, "personality", []uint64{0x40000}, eperm},
		{"read on arm64", arch.AARCH64, "read", nil, allow},
		{"mount on arm64", arch.AARCH64, "mount", nil, eperm},
		{"read by arm", arch.ARM, "read", nil, allow},
		{"unshare by arm", arch.ARM, "unshare", nil, eperm},
	}
	machines := map[bool]machine{false: newMachine(t, "amd64"), true: newMachine(t, "arm64")}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := machines[tt.arch == arch.AARCH64 || tt.arch == arch.ARM]
			numbers := numbersOf(tt.arch, tt.call)
			if len(numbers) == 0 {
				t.Fatalf("%s has no %s", tt.arch.Name, tt.call)
			}
			for _, nr := range numbers {
				if got := m.call(t, uint32(tt.arch.ID), nr, tt.args...); got != tt.want {
					t.Errorf("%s(%v) = %#x, want %#x", tt.call, tt.args, got, tt.want)
				}
			}
		})
	}
}

func numbersOf(info *arch.Info, call string) []uint32 {
	var numbers []uint32
	for nr, name := range info.SyscallNumbers {
		if name == call {
			numbers = append(numbers, uint32(nr|info.SeccompMask))
		}
	}
	return numbers
}

func TestUnknownCallsDoNotExist(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "amd64")
	for _, nr := range []uint32{480, 1 << 20, uint32(arch.X32.SeccompMask) | 600, 0xffffffff} {
		if got := m.call(t, uint32(arch.X86_64.ID), nr); got != enosys {
			t.Errorf("call %#x = %#x, want ENOSYS", nr, got)
		}
	}
	if got := m.call(t, uint32(arch.AARCH64.ID), 0); got != kill {
		t.Errorf("a foreign instruction set gets %#x, want the process killed", got)
	}
}

// TestEveryCallAgainstTheProfile judges every number of every table with arguments at and around each condition, once
// with the program and once by reading the profile's rules in order.
func TestEveryCallAgainstTheProfile(t *testing.T) {
	t.Parallel()
	for _, goarch := range compile.Machines() {
		t.Run(goarch, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, goarch)
			profile, err := compile.Flatten(profiles.DefaultProfile(), goarch, compile.Capabilities())
			if err != nil {
				t.Fatal(err)
			}
			arches, err := compile.Arches(goarch)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range arches {
				highest := highestIn(profile, a)
				for nr := range uint32(600) {
					for _, arg := range interesting(profile) {
						want := judge(profile, a.Calls[int(nr)], nr > highest, arg)
						if got := m.call(t, a.Audit, nr|a.Bit, arg, arg); got != want {
							t.Fatalf("%s: %q (%d) with argument %#x = %#x, want %#x", a.Name, a.Calls[int(nr)], nr, arg, got, want)
						}
					}
				}
			}
		})
	}
}

func highestIn(p *specs.LinuxSeccomp, a compile.Arch) uint32 {
	highest := 0
	for nr, name := range a.Calls {
		if slices.ContainsFunc(p.Syscalls, func(r specs.LinuxSyscall) bool { return slices.Contains(r.Names, name) }) {
			highest = max(highest, nr)
		}
	}
	return uint32(highest)
}

func interesting(p *specs.LinuxSeccomp) []uint64 {
	args := []uint64{0, 1, 1 << 32, 1<<64 - 1, rand.Uint64()}
	for _, rule := range p.Syscalls {
		for _, c := range rule.Args {
			args = append(args, c.Value, c.Value-1, c.Value+1, c.Value|1<<35)
		}
	}
	slices.Sort(args)
	return slices.Compact(args)
}

// judge is the profile read naively: the rules of a call are alternatives, nothing matches means the default.
func judge(p *specs.LinuxSeccomp, name string, tooNew bool, arg uint64) uint32 {
	if tooNew {
		return enosys
	}
	for _, rule := range p.Syscalls {
		if !slices.Contains(rule.Names, name) {
			continue
		}
		if slices.ContainsFunc(rule.Args, func(c specs.LinuxSeccompArg) bool { return !holds(c, arg) }) {
			continue
		}
		if rule.Action == specs.ActAllow {
			return allow
		}
		return uint32(unix.SECCOMP_RET_ERRNO) | uint32(*rule.ErrnoRet)
	}
	return eperm
}

func holds(c specs.LinuxSeccompArg, arg uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return arg == c.Value
	case specs.OpLessThan:
		return arg < c.Value
	case specs.OpMaskedEqual:
		return arg&c.Value == c.ValueTwo
	}
	panic("[bug] operator " + c.Op)
}

func TestProgramRefusesWhatItCannotSay(t *testing.T) {
	t.Parallel()
	two := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
		{Index: 0, Op: specs.OpEqualTo}, {Index: 1, Op: specs.OpEqualTo},
	}}
	wide := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
		{Value: 1 << 33, Op: specs.OpEqualTo},
	}}
	greater := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
		{Value: 1, Op: specs.OpGreaterThan},
	}}
	trap := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap}
	arches, err := compile.Arches("amd64")
	if err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]specs.LinuxSyscall{"two arguments": two, "wide": wide, "greater": greater, "trap": trap} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule}}
		if _, err := compile.Program(p, arches); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
	if _, err := compile.Arches("mips"); err == nil {
		t.Error("mips has tables")
	}
}

// TestCapabilitiesAreDockers compares with the mask every Docker container shows in /proc/self/status.
func TestCapabilitiesAreDockers(t *testing.T) {
	t.Parallel()
	bits := map[string]uint{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_FSETID": unix.CAP_FSETID,
		"CAP_FOWNER": unix.CAP_FOWNER, "CAP_MKNOD": unix.CAP_MKNOD, "CAP_NET_RAW": unix.CAP_NET_RAW,
		"CAP_SETGID": unix.CAP_SETGID, "CAP_SETUID": unix.CAP_SETUID, "CAP_SETFCAP": unix.CAP_SETFCAP,
		"CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
		"CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_KILL": unix.CAP_KILL, "CAP_AUDIT_WRITE": unix.CAP_AUDIT_WRITE,
	}
	mask := uint64(0)
	for _, name := range compile.Capabilities() {
		mask |= 1 << bits[name]
	}
	if diff := cmp.Diff(uint64(0xa80425fb), mask); diff != "" {
		t.Errorf("mask mismatch (-want +got):\n%s", diff)
	}
}
