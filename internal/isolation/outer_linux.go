package isolation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// linkVariable tells a process that it was started for a user namespace. Its value is STAGE:INODE, the inode that of the
// socket at linkFD: a process that merely inherited the variable has not got the socket.
const (
	linkVariable = "SLIPWAY_USER_NAMESPACE"
	linkFD       = 3

	stageWait = "wait" // the ids are not mapped yet; until they are, the process is nobody
	stageRoot = "root"
)

// ready is what both ends of the link say when all is well.
const ready = "ready"

// program is a second start of this one.
type program struct {
	o    Options
	link *os.File // our end
	cmd  *exec.Cmd
}

// leave runs the program in a new user namespace. The error is *Exited when it got there, else what was in the way.
//
// The calling thread is locked meanwhile: the other process dies with the thread that started it.
func leave(ctx context.Context, o Options) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Geteuid() == 0 { // in a container, without CAP_SYS_ADMIN
		return start(ctx, o, stageRoot, everyID)
	}
	sub, missing := findSubordinate(os.Getuid(), os.Getgid())
	if missing == nil {
		err := start(ctx, o, stageWait, func(*syscall.SysProcAttr) error { return nil }, sub.give)
		if !errors.Is(err, errNotMapped) {
			return err
		}
	}
	return start(ctx, o, stageRoot, oneID)
}

// errNotMapped says that newuidmap refused.
var errNotMapped = errors.New("subordinate ids were refused")

// give maps the ids of a process that waits for them.
func (s subordinate) give(pid int) error {
	for _, m := range []struct {
		program string
		list    []extent
	}{{"newuidmap", s.uids}, {"newgidmap", s.gids}} {
		out, err := exec.Command(m.program, arguments(pid, m.list)...).CombinedOutput() //nolint:noctx // it takes milliseconds, and ends with the process it maps
		if err != nil {
			return fmt.Errorf("%w: %s: %w: %s", errNotMapped, m.program, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// oneID maps root to the user, which needs nobody's permission.
func oneID(attr *syscall.SysProcAttr) error {
	attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	return nil
}

// everyID maps all ids that there are to themselves.
func everyID(attr *syscall.SysProcAttr) error {
	for file, to := range map[string]*[]syscall.SysProcIDMap{
		"/proc/self/uid_map": &attr.UidMappings, "/proc/self/gid_map": &attr.GidMappings,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		list, err := parseMap(string(text))
		if err != nil {
			return err
		}
		for _, e := range list {
			*to = append(*to, syscall.SysProcIDMap{ContainerID: e.inside, HostID: e.inside, Size: e.size})
		}
	}
	attr.GidMappingsEnableSetgroups = true
	return nil
}

// start starts the program in a user namespace, does what its maps need, hears whether it can work there, and sees it
// through.
func start(ctx context.Context, o Options, stage string, maps func(*syscall.SysProcAttr) error, after ...func(pid int) error) error {
	p := &program{o: o}
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // the terminal's signals come to us alone, and from us to it, once
	}
	if err := maps(attr); err != nil {
		return fmt.Errorf("map ids: %w", err)
	}
	if err := p.begin(stage, attr); err != nil {
		return makeError(err)
	}
	err := p.prepare(after)
	if err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // it was killed: its status says nothing
		return errors.Join(err, p.link.Close())
	}
	return p.wait(ctx)
}

// begin starts the process.
func (p *program) begin(stage string, attr *syscall.SysProcAttr) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.link = os.NewFile(uintptr(fds[0]), "link")
	theirs := os.NewFile(uintptr(fds[1]), "link")
	defer theirs.Close()
	value, err := linkValue(stage, fds[1])
	if err != nil {
		return errors.Join(err, p.link.Close())
	}
	p.cmd = &exec.Cmd{
		Path: ownPath(), Args: os.Args, SysProcAttr: attr, ExtraFiles: []*os.File{theirs},
		Env:   append(os.Environ(), linkVariable+"="+value, "SLIPWAY_HOME="+p.o.Home),
		Stdin: p.o.Stdin, Stdout: p.o.Stdout, Stderr: p.o.Stderr,
	}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, p.link.Close())
	}
	return nil
}

// prepare maps the ids and waits for the process to say how it fares.
func (p *program) prepare(after []func(pid int) error) error {
	for _, f := range after {
		if err := f(p.cmd.Process.Pid); err != nil {
			return err
		}
	}
	if len(after) > 0 { // otherwise nobody waits
		if _, err := p.link.WriteString(ready); err != nil {
			return err
		}
	}
	said, err := io.ReadAll(p.link)
	if err != nil {
		return err
	}
	if string(said) == ready {
		return nil
	}
	if len(said) == 0 {
		said = []byte("it ended before it could say why")
	}
	text, hint, _ := strings.Cut(string(said), "\n")
	return errs.Hint(fmt.Errorf("the user namespace is of no use: %s", text), hint)
}

// wait sees the process to its end, which is asked for once when ctx is done.
func (p *program) wait(ctx context.Context) error {
	ended := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-ended:
		case <-ctx.Done():
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it has ended already, if that fails
		}
	})
	err := p.cmd.Wait()
	close(ended)
	watcher.Wait()
	if err := p.link.Close(); err != nil {
		return err
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &Exited{Code: code(exit.ProcessState)}
	}
	if err != nil {
		return fmt.Errorf("wait for the process in the user namespace: %w", err)
	}
	return &Exited{}
}

// code is a shell's: 128 and the signal for what a signal killed.
func code(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// makeError explains why a user namespace could not be made.
func makeError(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // which program it was to run says nothing
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return errs.Hint(errors.New("make a user namespace: user.max_user_namespaces allows no more"), "sysctl user.max_user_namespaces=65536")
	}
	err = fmt.Errorf("make a user namespace: %w", err)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errs.Hint(err, refusal())
	}
	return err
}

// refusal says which of the machine's settings, as far as they can be told, forbid user namespaces.
func refusal() string {
	for _, s := range []struct{ name, bad, good string }{
		{"kernel.unprivileged_userns_clone", "0", "1"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
	} {
		value, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(s.name, ".", "/"))
		if err == nil && strings.TrimSpace(string(value)) == s.bad {
			return "sysctl " + s.name + "=" + s.good
		}
	}
	return "the container's seccomp or AppArmor profile forbids it: run it with --security-opt seccomp=unconfined " +
		"--security-opt apparmor=unconfined, as root with CAP_SYS_ADMIN, or as root with --isolation chroot"
}

// ownPath is this program's file, by a path that means the same in another mount namespace.
func ownPath() string {
	const self = "/proc/self/exe"
	path, err := os.Readlink(self)
	if err != nil {
		return self
	}
	here, err1 := os.Stat(self)
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(here, there) {
		return self
	}
	return path
}

func linkValue(stage string, fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	return stage + ":" + strconv.FormatUint(st.Ino, 10), nil
}
