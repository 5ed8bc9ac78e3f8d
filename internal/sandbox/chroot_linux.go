package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// chrootArg tells init that it is born into no namespaces.
const chrootArg = "chroot"

// killAll is the signal on which an init without a PID namespace kills what it started. It gets it when its parent dies.
const killAll = unix.SIGTERM

// capabilities are what root has inside.
func capabilities(spec *Spec) []uintptr {
	keep := dockerCapabilities()
	if spec.Chroot {
		// A second chroot would lead out of the first, and a node of the machine's disk around it.
		keep = slices.DeleteFunc(keep, func(c uintptr) bool { return c == unix.CAP_SYS_CHROOT || c == unix.CAP_MKNOD })
	}
	return keep
}

// runChroot carries out a request without any namespace.
func runChroot(spec *Spec, who *syscall.Credential) *report {
	ended, err := chrootAndRun(spec, who)
	if err != nil {
		return &report{Failure: newFailure(err)}
	}
	return &report{Exit: ended}
}

func chrootAndRun(spec *Spec, who *syscall.Credential) (*exit, error) {
	t, err := newTribe()
	if err != nil {
		return nil, err
	}
	if err := enterChroot(spec); err != nil {
		return nil, err
	}
	pid, err := start(spec, who)
	if err != nil {
		return nil, err
	}
	if t.doomed.Load() { // before there was anything to kill
		err = t.kill()
	}
	ended, waited := t.supervise(pid)
	return ended, errors.Join(err, waited)
}

// enterChroot changes the root, and takes away for good what would lead out of it.
func enterChroot(spec *Spec) error {
	root, err := unix.Open(spec.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root: %w", kind(err))
	}
	if err := errors.Join(unix.Fchdir(root), unix.Close(root)); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return errs.Hint(fmt.Errorf("change root: %w", kind(err)), "isolation chroot needs CAP_SYS_CHROOT")
	}
	if err := dropBounding(capabilities(spec)); err != nil {
		return err
	}
	if err := permitFilter(); err != nil {
		return err
	}
	return settle(spec)
}

// permitFilter allows a process without CAP_SYS_ADMIN to have a filter: the price is that setuid programs do not work.
func permitFilter() error {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// tribe is everything that descends from this process: the kernel makes it the parent of those whose own has ended.
type tribe struct {
	proc   int // the machine's /proc, opened before the root changed
	doomed atomic.Bool
}

func newTribe() (*tribe, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt orphans: %w", err)
	}
	proc, err := openDir(unix.AT_FDCWD, "/proc")
	if err != nil {
		return nil, err
	}
	t := &tribe{proc: proc}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, killAll)
	go func() { // lives as long as the process
		for range signals {
			t.doomed.Store(true)
			_ = t.kill() // supervise sees to the rest, and reports
		}
	}()
	return t, nil
}

// supervise sees the command to its end and then kills what is left, generation by generation: whoever's parent is killed
// becomes a child of this process.
func (t *tribe) supervise(pid int) (*exit, error) {
	releaseStdio()
	used := &exit{}
	status, err := used.reap(pid)
	if err != nil {
		return nil, fmt.Errorf("wait for the command: %w", err)
	}
	used.Code = status.ExitStatus()
	if status.Signaled() {
		used.Signal = int(status.Signal())
		used.Code = 128 + used.Signal
	}
	for {
		var peek unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &peek, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.ECHILD) {
			return used, nil
		}
		if err == nil || errors.Is(err, unix.EINTR) {
			err = t.kill()
		}
		if err == nil {
			_, err = used.reap(-1)
		}
		if err != nil && !errors.Is(err, unix.ECHILD) {
			return nil, fmt.Errorf("end what the command left behind: %w", err)
		}
	}
}

// kill kills the children of this process.
func (t *tribe) kill() error {
	dir, err := unix.Openat(t.proc, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dir), "/proc")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && t.parent(name) == os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL) // only this process reaps it: the number is still its own
		}
	}
	return nil
}

// parent reads whose child a process is, 0 when it is gone.
func (t *tribe) parent(pid string) int {
	fd, err := unix.Openat(t.proc, pid+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	buf := make([]byte, 512)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return 0
	}
	name := bytes.LastIndexByte(buf[:n], ')') // which may hold anything, this too
	fields := bytes.Fields(buf[name+1 : n])   // state, parent, …
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return parent
}
