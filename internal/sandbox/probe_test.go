package sandbox_test

import (
	"debug/elf"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"slipway/internal/sandbox"
)

// The test binary is also the program inside: /probe NAME ARGUMENTS… carries out one attempt and prints what came of it.

const probePath = "/probe"

// withProbe adds the test binary to the root.
func (l layers) withProbe(t testing.TB) layers {
	t.Helper()
	copyFile(t, staticExecutable(t), filepath.Join(l.lower, probePath))
	return l
}

// staticExecutable is the test binary, if it can run inside.
func staticExecutable(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("needs a static test binary, to run it inside (CGO_ENABLED=0)")
	}
	return exe
}

// probe runs an attempt inside and returns its output.
func (l layers) probe(t *testing.T, args []string, change ...func(*sandbox.Spec)) string {
	t.Helper()
	var out, errOut strings.Builder
	s := l.spec(append([]string{probePath}, args...)...)
	s.Stdout, s.Stderr = &out, &errOut
	for _, c := range change {
		c(s)
	}
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || res.ExitCode != 0 {
		t.Fatalf("probe %q: exit %d, %v, output:\n%s%s", args, res.ExitCode, err, &out, &errOut)
	}
	return out.String()
}

// probeMain is what the test binary does inside.
func probeMain(args []string) int {
	if err := attempt(args[0], args[1:]); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func attempt(name string, args []string) error {
	switch name {
	case "ls":
		return list(args[0])
	case "read":
		return tryFiles(args, os.O_RDONLY)
	case "write":
		return tryFiles(args, os.O_WRONLY)
	case "calls":
		tryCalls()
	case "disk":
		return tryDisk(args)
	case "chroot":
		return tryChroot(args[0])
	case "status":
		return printStatus()
	case "suid":
		return runSuid()
	case "euid":
		fmt.Println(os.Geteuid())
	case "interfaces":
		return printInterfaces()
	case "hog":
		return hog(args[0])
	}
	return nil
}

func list(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return err
}

// errno prints an error as its number's name, which does not depend on wording.
func errno(err error) string {
	if err == nil {
		return "allowed"
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// tryFiles opens files and reads a byte, or writes one.
func tryFiles(files []string, flag int) error {
	for _, file := range files {
		f, err := os.OpenFile(file, flag, 0)
		if err == nil {
			st, statErr := f.Stat()
			switch {
			case statErr == nil && st.IsDir():
				_, err = f.ReadDir(1)
			case flag == os.O_WRONLY:
				_, err = f.WriteString("1")
			default:
				_, err = f.Read(make([]byte, 1))
			}
			err = errors.Join(err, f.Close())
		}
		fmt.Println(file, errno(err))
	}
	return nil
}

// tryCalls makes system calls that a container has no business making, with arguments that would do harm if they could.
func tryCalls() {
	p := func(s string) uintptr { b, _ := unix.BytePtrFromString(s); return uintptr(unsafe.Pointer(b)) }
	var buf [256]byte
	mem := uintptr(unsafe.Pointer(&buf))
	vec := uintptr(unsafe.Pointer(&unix.Iovec{Base: &buf[0], Len: 8}))
	calls := []struct {
		name string
		nr   uintptr
		args [6]uintptr
	}{
		{"mount", unix.SYS_MOUNT, [6]uintptr{p("tmpfs"), p("/"), p("tmpfs"), 0, 0}},
		{"remount", unix.SYS_MOUNT, [6]uintptr{0, p("/proc/sys"), 0, unix.MS_REMOUNT | unix.MS_BIND, 0}},
		{"umount", unix.SYS_UMOUNT2, [6]uintptr{p("/proc/kcore"), unix.MNT_DETACH}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{p("/"), p("/")}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{p("tmpfs"), 0}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{^uintptr(99), p("/"), 1}},
		{"setns", unix.SYS_SETNS, [6]uintptr{0, 0}},
		{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"unshare mount", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}},
		{"clone user", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)}},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{mem, 64}},
		{"ptrace init", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_SEIZE, 1}},
		{"read memory of init", unix.SYS_PROCESS_VM_READV, [6]uintptr{1, vec, 1, vec, 1}},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, mem, 72}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, ^uintptr(2)}},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{p("user"), p("x"), mem, 1, ^uintptr(2)}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{mem, 1, p("")}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_OFF}},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{p("/probe")}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{mem, 0}},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{p("x"), 1}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{mem, 0, ^uintptr(0), ^uintptr(0)}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, mem}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{0, mem, 0}},
		{"acct", unix.SYS_ACCT, [6]uintptr{p("/probe")}},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{3, mem, 256}},
	}
	for _, c := range calls {
		_, _, e := unix.Syscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if e == 0 {
			fmt.Println(c.name, "allowed")
			continue
		}
		fmt.Println(c.name, unix.ErrnoName(e))
	}
}

// tryDisk makes a node of a block device, given by number, in several places, and opens it.
func tryDisk(args []string) error {
	dev, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	for _, dir := range args[1:] {
		node := filepath.Join(dir, "disk")
		made := unix.Mknod(node, unix.S_IFBLK|0o600, int(dev))
		_, err := os.Open(node)
		fmt.Println(dir, "mknod", errno(made), "open", errno(err))
	}
	return nil
}

// tryChroot is the classic way out of a chroot: keep a descriptor outside of a new, deeper root and climb from there.
func tryChroot(marker string) error {
	outside, err := os.Open("/")
	if err != nil {
		return err
	}
	if err := os.Mkdir("/deeper", 0o755); err != nil {
		return err
	}
	if err := unix.Chroot("/deeper"); err != nil {
		return err
	}
	if err := outside.Chdir(); err != nil {
		return err
	}
	for range 64 {
		if err := os.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	_, err = os.Stat(marker)
	fmt.Println(errno(err))
	return nil
}

func printStatus() error {
	data, err := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if name, value, _ := strings.Cut(line, ":"); strings.HasPrefix(name, "Cap") || name == "NoNewPrivs" || name == "Seccomp" ||
			name == "Uid" || name == "Gid" || name == "Groups" || name == "Umask" {
			fmt.Println(name, strings.Join(strings.Fields(value), " "))
		}
	}
	return err
}

func runSuid() error {
	cmd := exec.Command("/suid")
	cmd.Args = []string{probePath, "euid"}
	out, err := cmd.Output()
	fmt.Print(string(out))
	return err
}

func printInterfaces() error {
	all, err := net.Interfaces()
	for _, i := range all {
		fmt.Println(i.Name, i.Flags&net.FlagUp != 0)
	}
	return err
}

// hog uses memory until it is stopped.
func hog(megabytes string) error {
	n, err := strconv.Atoi(megabytes)
	if err != nil {
		return err
	}
	var all [][]byte
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println(len(all))
	return nil
}

// scriptInterpreter is the test binary when an image's script has had it executed as #!/proc/self/exe. A descriptor of
// the file outlives the program, and through it one tries to change the file.
func scriptInterpreter() int {
	fd, err := unix.Open("/proc/self/exe", unix.O_PATH, 0)
	if err == nil {
		err = unix.UtimesNano("/proc/self/fd/"+strconv.Itoa(fd), []unix.Timespec{{}, {}})
	}
	fmt.Println("interpreter", errno(err))
	return 0
}
