package sandbox

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervise sees the command to its end: it passes signals on, reaps every other process that ends meanwhile, and then
// kills what the command left behind, so that nobody writes to the root after the parent has been told.
func (in *initProcess) supervise(pid int) *exit {
	if in.signals == nil {
		in.listen()
	}
	go func() { // lives as long as the process
		for s := range in.signals {
			_ = unix.Kill(-pid, s.(syscall.Signal)) // the command's process group; it may be gone
		}
	}()
	releaseStdio()
	used := &exit{}
	if status, ok := used.reap(pid); ok {
		used.Code = status.ExitStatus()
		if status.Signaled() {
			used.Signal = int(status.Signal())
			used.Code = 128 + used.Signal
		}
	}
	for unix.Kill(-1, unix.SIGKILL) == nil {
		if _, ok := used.reap(-1); !ok {
			break
		}
	}
	return used
}

// releaseStdio lets go of init's copies of the command's streams: their readers are to see the end of them when the
// command and its children are gone, not when init is.
func releaseStdio() {
	for fd := range 3 {
		_ = unix.Close(fd) // nothing was written through them
	}
}

// reap waits until the child pid has ended, or any child if pid is -1, and adds up what was used. It is false when there
// is no such child.
func (e *exit) reap(pid int) (unix.WaitStatus, bool) {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		got, err := unix.Wait4(-1, &status, 0, &usage)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return status, false
		}
		e.User += time.Duration(usage.Utime.Nano())
		e.System += time.Duration(usage.Stime.Nano())
		e.MaxRSS = max(e.MaxRSS, usage.Maxrss<<10)
		if pid == -1 || got == pid {
			return status, true
		}
	}
}
