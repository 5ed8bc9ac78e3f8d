package sandbox

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProgramIsOnAReadOnlyMount(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root: clones a mount")
	}
	fd, err := readOnlyProgram()
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("needs Linux 5.12")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.UtimesNano(fdPath(fd), []unix.Timespec{{}, {}}); !errors.Is(err, unix.EROFS) {
		t.Errorf("changing the program = %v, want a read-only file system", err)
	}
}

func TestProgramCopyIsSealed(t *testing.T) {
	t.Parallel()
	fd, err := sealedProgram()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, []byte("#!"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to the copy = %v, want EPERM", err)
	}
	if err := unix.Ftruncate(fd, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating the copy = %v, want EPERM", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("changing the seals = %v, want EPERM", err)
	}
	copied, err := os.ReadFile(fdPath(fd))
	if err != nil {
		t.Fatal(err)
	}
	original, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(copied, original) {
		t.Error("the copy differs from the program")
	}
}

// TestProgramStartsNextToWhatItIsGiven is about the numbers that descriptors get under load. The test is alone in the
// process: it depends on which are free.
func TestProgramStartsNextToWhatItIsGiven(t *testing.T) { //nolint:paralleltest // see above
	path, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	const busy = 300 // more than the process has open, so that the pipe of os.StartProcess is below
	null := openAt(t, os.DevNull, busy)
	prog := openAt(t, path, int(null.Fd())+1)
	fd := int(prog.Fd())
	if fd != int(null.Fd())+1 {
		t.Fatalf("the program is descriptor %d, want the one after %d", fd, null.Fd())
	}
	p, err := program{path: fdPath(fd), fd: fd}.start([]string{"true"}, &os.ProcAttr{Files: []*os.File{null, null, null, null}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil || !state.Success() {
		t.Errorf("the program ended with %v, %v", state, err)
	}
}

// openAt opens a file under the first free number from least on.
func openAt(t *testing.T, path string, least int) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, least)
	if err != nil {
		t.Fatal(err)
	}
	moved := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { _ = moved.Close() }) // only read
	return moved
}

func BenchmarkProtectProgram(b *testing.B) {
	for name, protect := range map[string]func() (int, error){"mount": readOnlyProgram, "memory": sealedProgram} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fd, err := protect()
				if err != nil {
					b.Fatal(err)
				}
				_ = unix.Close(fd)
			}
		})
	}
}
