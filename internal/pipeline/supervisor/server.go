package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Launcher starts supervisors. Its methods may be called from several goroutines.
type Launcher struct {
	// Command is the program and arguments that become a supervisor; the attempt's folder is added.
	Command []string
	// Env is the environment of supervisors and workers.
	Env []string

	mu       sync.Mutex
	children map[int]bool
}

// Launch starts a supervisor for the attempt in dir, which is made and must not exist.
func (l *Launcher) Launch(dir string, o Order) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start an attempt: %w", errs.Mark(err, errs.Unavailable))
		}
	}()
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	// The lock belongs to the open file, which the supervisor inherits: from here on until it has ended there is no moment
	// in which it is not locked.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	complaints, err := os.OpenFile(filepath.Join(dir, errorName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, complaints.Close()) }()
	order, err := inMemory(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, order.Close()) }()
	cmd := exec.Command(l.Command[0], append(l.Command[1:len(l.Command):len(l.Command)], dir)...) //nolint:noctx // it is to outlive us
	cmd.Env, cmd.Dir = l.Env, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = order, complaints, complaints
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.children == nil {
		l.children = map[int]bool{}
	}
	l.children[cmd.Process.Pid] = true
	return cmd.Process.Release()
}

// inMemory makes a file of an order that no disk ever sees: there are secrets in it.
func inMemory(o Order) (_ *os.File, err error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "order")
	_, err = f.Write(data)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Reap takes note of supervisors of this server that have ended, which stay as zombies until somebody does.
func (l *Launcher) Reap() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pid := range l.children {
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || errors.Is(err, unix.ECHILD) {
			delete(l.children, pid)
		}
	}
}

// State is how an attempt stands.
type State struct {
	// Alive says that its supervisor is there, Silent for how long it has not beaten.
	Alive  bool
	Silent time.Duration
	// Begun says that a worker was started, or was about to be, Canceled that it was asked to end.
	Begun, Canceled bool
	// Exit is how it ended, nil when there is no exit record.
	Exit *Exit
}

// Look finds out how the attempt in dir stands. A folder that does not exist is an attempt that never began.
func Look(dir string) (State, error) {
	var s State
	var err error
	if s.Alive, err = alive(dir); err != nil {
		return s, fmt.Errorf("look at an attempt: %w", err)
	}
	if s.Alive {
		s.Silent = silent(dir)
	}
	// After looking for the process: what it has written before it ended is there.
	s.Begun, s.Canceled = has(dir, stateName), has(dir, cancelName)
	var e Exit
	err = readJSON(dir, exitName, &e)
	switch {
	case errors.Is(err, errs.NotFound):
	case err != nil:
		return s, fmt.Errorf("look at an attempt: %w", err)
	default:
		s.Exit = &e
	}
	return s, nil
}

func has(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// alive says whether somebody holds the lock.
func alive(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// silent is how long ago the last beat was. Before the first one the folder's own age counts.
func silent(dir string) time.Duration {
	data, err := os.ReadFile(filepath.Join(dir, beatName))
	if err == nil {
		at, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
		if err == nil {
			return max(0, uptime()-time.Duration(at))
		}
	}
	return 0
}

// Cancel asks the attempt in dir to end. It may be called again.
func Cancel(dir string, o CancelOrder) error {
	err := readJSON(dir, cancelName, &CancelOrder{})
	if errors.Is(err, errs.NotFound) {
		err = writeJSON(dir, cancelName, o)
	}
	if err != nil {
		return fmt.Errorf("cancel an attempt: %w", err)
	}
	// The file is what counts, and the supervisor looks for it with each beat. The signal makes it look now.
	if err := send(dir, unix.SIGTERM); err != nil && !errors.Is(err, errs.NotFound) {
		return fmt.Errorf("cancel an attempt: %w", err)
	}
	return nil
}

// Kill ends the supervisor of the attempt in dir, and with it the worker, at once. That it is gone is no error.
func Kill(dir string) error {
	if err := send(dir, unix.SIGKILL); err != nil && !errors.Is(err, errs.NotFound) {
		return fmt.Errorf("kill an attempt: %w", err)
	}
	return nil
}

// send sends a signal to a supervisor. It is an errs.NotFound when that is gone.
func send(dir string, sig unix.Signal) error {
	if is, err := alive(dir); err != nil || !is {
		return errors.Join(err, errs.NotFound)
	}
	var p process
	if err := readJSON(dir, stateName, &p); err != nil {
		return err // NotFound: it is only starting
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return errs.NotFound
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// With the descriptor in hand the number can no longer become another process's; until here it could.
	if start, err := startOf(p.PID); err != nil || start != p.Start {
		return errs.NotFound
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errs.NotFound
	}
	return err
}

// startOf is when a process started: field 22 of its stat, counted behind the name, which may hold anything.
func startOf(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const start = 22 - 3
	if len(fields) <= start {
		return "", fmt.Errorf("/proc/%d/stat has %d fields: %w", pid, len(fields), errs.Corrupt)
	}
	return fields[start], nil
}

// Clean removes what only mattered while the attempt ran. Its logs stay.
func Clean(dir string) error {
	var errAll error
	for _, name := range []string{beatName, cancelName, stateName, reserveName, errorName, exitName, lockName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errAll = errors.Join(errAll, err)
		}
	}
	if errAll != nil {
		return fmt.Errorf("tidy up after an attempt: %w", errAll)
	}
	return nil
}

// Unsettled says whether something is left of an attempt besides its logs.
func Unsettled(dir string) bool { return has(dir, lockName) }
