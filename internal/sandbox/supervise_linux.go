package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forwarder passes signals that init gets on to the command.
type forwarder struct {
	target chan int
}

// passedOn are the signals by which people and service managers ask for an end.
func passedOn() []os.Signal {
	return []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}
}

// newForwarder starts listening. All threads that it takes exist when it returns: later, the command may have used up
// what a limit of processes allows, and the Go runtime ends a program that cannot have a thread.
func newForwarder() *forwarder {
	f := &forwarder{target: make(chan int)}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	up := make(chan struct{})
	go func() { // lives as long as the process
		close(up)
		pid := <-f.target
		for s := range signals {
			if number, ok := s.(syscall.Signal); ok {
				_ = unix.Kill(-pid, number) // the command's process group; it may be gone
			}
		}
	}()
	<-up
	return f
}

// to names the command.
func (f *forwarder) to(pid int) {
	if f != nil {
		f.target <- pid
	}
}

// deafen gives signals their default action, which for process 1 is none, except to those that f listens to. The Go
// runtime's is to end the program, and anybody inside could send one.
func (f *forwarder) deafen() {
	const highest = 64
	var action [4]uint64 // of zeros: struct sigaction with SIG_DFL
	for sig := syscall.Signal(1); sig <= highest; sig++ {
		if f != nil && slices.Contains(passedOn(), os.Signal(sig)) {
			continue
		}
		// SIGKILL and SIGSTOP cannot be set and need not be.
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, highest/8, 0, 0)
	}
}

// supervise sees the command to its end: it reaps every other process that ends meanwhile, and then kills what the
// command left behind, so that nobody writes to the root after the parent has been told.
func supervise(pid int) (*exit, error) {
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
	for unix.Kill(-1, unix.SIGKILL) == nil {
		if _, err := used.reap(-1); err != nil {
			return nil, fmt.Errorf("wait for what the command left behind: %w", err)
		}
	}
	return used, nil
}

// releaseStdio lets go of init's copies of the command's streams: their readers are to see the end of them when the
// command and its children are gone, not when init is.
func releaseStdio() {
	for fd := range 3 {
		_ = unix.Close(fd) // nothing was written through them
	}
}

// reap waits until the child pid has ended, or any child if pid is -1, and adds up what was used.
func (e *exit) reap(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		got, err := unix.Wait4(-1, &status, 0, &usage)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return status, err
		}
		e.User += time.Duration(usage.Utime.Nano())
		e.System += time.Duration(usage.Stime.Nano())
		e.MaxRSS = max(e.MaxRSS, usage.Maxrss<<10)
		if pid == -1 || got == pid {
			return status, nil
		}
	}
}
