// Package seccomp is the system call filter of a sandbox: Docker's default profile for Docker's default capabilities,
// compiled to BPF when slipway is developed and carried as data, so that it costs no start of the program anything.
//
// Package compile makes the program; TestProgramIsCurrent fails when it no longer follows from the profile.
package seccomp

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:generate go run generate.go

// instructionSize is sizeof(struct sock_filter).
const instructionSize = 8

// Program is the filter's array of struct sock_filter in native byte order.
func Program() string { return program }

// Load puts every thread of the process, and what they start, under the filter for good. It needs CAP_SYS_ADMIN and
// not no_new_privs, so that setuid programs go on working.
//
// Mitigations of speculative store bypass stay off (SPEC_ALLOW), as runc does: they slow everything in the sandbox and
// guard against nothing that another process on the host could not do.
func Load() error {
	prog := unix.SockFprog{
		Len:    uint16(len(program) / instructionSize),
		Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.StringData(program))),
	}
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("load seccomp filter: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("load seccomp filter: thread %d has another filter", thread)
	}
	return nil
}
