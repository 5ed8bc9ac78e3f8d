package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/sandbox/seccomp"
)

// Exit codes that shells give to commands which could not be started.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// settle gives the process what the command will inherit, apart from its privileges.
func settle(spec *Spec) error {
	if err := setHostname(spec); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := setLimits(); err != nil {
		return err
	}
	// A session keyring of its own: keys of whoever started slipway are not for the command, not even by way of a file
	// system that looks them up. The filter keeps it from keyctl itself.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make session keyring: %w", err)
	}
	return enterCwd(spec.Cwd)
}

// setHostname names the machine inside; without a namespace it keeps its name.
func setHostname(spec *Spec) error {
	if spec.Chroot {
		return nil
	}
	hostname := spec.Hostname
	if hostname == "" {
		hostname = "slipway"
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set hostname %q: %w", hostname, err)
	}
	return nil
}

// enterCwd changes to the working directory, which an image names: not by way of /proc's links.
func enterCwd(cwd string) error {
	if cwd == "" {
		cwd = "/"
	}
	fd, err := openIn(unix.AT_FDCWD, cwd, unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return fmt.Errorf("enter working directory %s: %w", cwd, kind(err))
	}
	if err := errors.Join(unix.Fchdir(fd), unix.Close(fd)); err != nil {
		return fmt.Errorf("enter working directory %s: %w", cwd, kind(err))
	}
	return nil
}

// setLimits sets what a service manager of today gives to containers, whatever slipway itself was started with: programs
// that close every possible descriptor take minutes with a billion of them, and core files are not for layers.
func setLimits() error {
	files := syscall.Rlimit{Cur: 1024, Max: 524288}
	core := syscall.Rlimit{}
	var have syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &have); err == nil {
		files.Max = min(files.Max, have.Max)
		files.Cur = min(files.Cur, files.Max)
	}
	// By way of package syscall, which otherwise gives the command the limit that init was started with.
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	if err := syscall.Setrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("limit core files: %w", err)
	}
	return nil
}

// start gives up privileges and starts the command, which inherits what is left.
func start(spec *Spec, who *syscall.Credential) (pid int, err error) {
	program, err := lookPath(spec)
	if err != nil {
		return 0, err
	}
	if !spec.Insecure {
		if err := confine(capabilities(spec)); err != nil {
			return 0, err
		}
	}
	attr := &syscall.ProcAttr{
		Env:   spec.Env,
		Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: who,
		},
	}
	if spec.Chroot {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	pid, err = syscall.ForkExec(program, spec.Args, attr)
	if err != nil {
		return 0, startFailure(spec.Args[0], program, err)
	}
	return pid, nil
}

// lookPath finds the command inside the root, where the process is now.
func lookPath(spec *Spec) (string, error) {
	name := spec.Args[0]
	if strings.Contains(name, "/") {
		return name, nil // the kernel says what is wrong with it
	}
	denied := false
	for _, dir := range filepath.SplitList(pathOf(spec.Env)) {
		if dir == "" {
			dir = "."
		}
		file := dir + "/" + name
		var st unix.Stat_t
		if unix.Stat(file, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if st.Mode&0o111 != 0 {
			return file, nil
		}
		denied = true
	}
	if denied {
		return "", &execError{fmt.Errorf("exec %q: found in $PATH but not executable: %w", name, errs.Denied), exitNotExecutable}
	}
	return "", &execError{errs.Mark(fmt.Errorf("exec %q: not found in $PATH", name), errs.NotFound), exitNotFound}
}

func pathOf(env []string) string {
	value := DefaultPath
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			value = v
		}
	}
	return value
}

// startFailure says what an errno of execve means to somebody who writes a Dockerfile.
func startFailure(name, program string, err error) error {
	var st unix.Stat_t
	missing := unix.Stat(program, &st) != nil
	switch {
	case errors.Is(err, unix.ENOENT) && missing:
		return &execError{errs.Mark(fmt.Errorf("exec %q: no such file in the image", name), errs.NotFound), exitNotFound}
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("exec %q: its interpreter or loader is not in the image: %w", name, err)
		return &execError{errs.Mark(err, errs.NotFound), exitNotFound}
	case errors.Is(err, unix.ENOEXEC):
		err = errs.Hint(fmt.Errorf("exec %q: %w", name, err), "a program for another platform, or a script without #!")
		return &execError{errs.Mark(err, errs.Invalid), exitNotExecutable}
	}
	return &execError{fmt.Errorf("exec %q: %w", name, kind(err)), exitNotExecutable}
}

// confine gives up the capabilities that Docker does not give and puts the process under the filter. Init is confined
// with the command: it has no further use for more.
func confine(keep []uintptr) error {
	if err := seccomp.Load(); err != nil { // while there still is CAP_SYS_ADMIN; no_new_privs would break sudo
		return err
	}
	return setCapabilities(keep)
}
