package sandbox

import (
	"bytes"
	"errors"
	"os"
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
