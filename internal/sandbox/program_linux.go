package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// program is a file to start init from.
type program struct {
	path string
	fd   int // the descriptor that path names, -1 if it names none
}

// hostProgram is this program where it lies, for where nothing can be mounted.
func hostProgram() program { return program{path: "/proc/self/exe", fd: -1} }

// ownProgram is what to execute to run this program again. It is made once per process.
//
// The kernel shows a process's own program as /proc/PID/exe, and a hostile image can make init execute it again (a
// command that begins with #!/proc/self/exe). Opened from there for writing, the host's slipway would be the attacker's
// (CVE-2019-5736). So init never runs from the path of the host: it runs from a private mount of the file that is
// read-only and cannot be remounted, or from a sealed copy in memory where the kernel is older than 5.12.
var ownProgram = sync.OnceValues(func() (program, error) {
	fd, err := readOnlyProgram()
	if err != nil {
		fd, err = sealedProgram()
	}
	if err != nil {
		return program{}, fmt.Errorf("protect own program: %w", err)
	}
	return program{path: fdPath(fd), fd: fd}, nil
})

// start is os.StartProcess of the program, whatever numbers the descriptors of attr have.
//
// The path is resolved in the child, when package syscall has rearranged the child's descriptors: those of attr.Files are
// at 0 and up, and the pipe through which it tells that exec failed is often at the number after the greatest of them,
// in place of what was there. If that was the program, the pipe would be executed: permission denied. So one of the files
// gets a number beyond the program's, which itself is never as low as 3: it was made while its source was open.
func (p program) start(args []string, attr *os.ProcAttr) (*os.Process, error) {
	last := len(attr.Files) - 1
	fd, err := unix.FcntlInt(attr.Files[last].Fd(), unix.F_DUPFD_CLOEXEC, p.fd+1)
	if err != nil {
		return nil, err
	}
	beyond := os.NewFile(uintptr(fd), attr.Files[last].Name())
	defer beyond.Close() // the child has its own
	theirs := *attr
	theirs.Files = append(slices.Clone(attr.Files[:last]), beyond)
	return os.StartProcess(p.path, args, &theirs)
}

// fdPath names an open file for calls that want a path. It resolves to the file itself, whatever its path is now.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readOnlyProgram clones the mount of the program's file, detached from every namespace, and makes the clone read-only.
// That costs microseconds; the copy costs 25 ms and 60 MB.
func readOnlyProgram() (int, error) {
	exe, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(exe)
	fd, err := unix.OpenTree(exe, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, fmt.Errorf("clone mount: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, errors.Join(fmt.Errorf("make mount read-only: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// sealedProgram copies the program into memory that nobody can write to again.
func sealedProgram() (int, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	defer exe.Close()
	fd, err := unix.MemfdCreate(initName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("create memory file: %w", err)
	}
	if err := fillAndSeal(fd, exe); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func fillAndSeal(fd int, src io.Reader) error {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(dup), initName)
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("copy program to memory: %w", err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal program in memory: %w", err)
	}
	return nil
}
