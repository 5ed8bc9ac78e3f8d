// Package isolationtest runs a package's tests where slipway is not root, or root without namespaces: as a user with
// subordinate ids, as one without, and in a chroot.
//
// A test binary starts itself again. Its TestMain calls Main, and one of its tests calls Run for each way:
//
//	func TestIsolated(t *testing.T) {
//		for _, way := range isolationtest.Ways() {
//			t.Run(way, func(t *testing.T) { isolationtest.Run(t, way, "^TestEscape") })
//		}
//	}
package isolationtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/internal/isolation"
)

// Ways to run tests.
const (
	OneID   = "one-id"          // as a user, in a namespace with his id alone
	ManyIDs = "subordinate-ids" // as a user who has 65536 more
	Chroot  = "chroot"          // as root, with chroot for RUN
)

// Ways lists them.
func Ways() []string { return []string{OneID, ManyIDs, Chroot} }

const (
	// wayVariable has a test binary go to a place before it runs its tests.
	wayVariable = "SLIPWAY_TEST_ISOLATION"
	// thereVariable says that it has got there, to it and to what it starts.
	thereVariable = "SLIPWAY_TEST_ISOLATED"
	// userVariable has it become the user first, in a mount namespace in which the machine knows him.
	userVariable = "SLIPWAY_TEST_USER"
)

// The user has nothing on this machine, but subordinate ids where a test gives him some.
const (
	userID   = 54321
	userName = "slipway-test"
)

// Way is how the tests of this process are run, "" for as they are.
func Way() string { return os.Getenv(thereVariable) }

// Main goes where Run has asked it to, and says where that is. TestMain calls it after the Inits of other packages.
func Main() isolation.Place {
	isolation.Init()
	way := os.Getenv(wayVariable)
	if way == "" {
		return isolation.Place{}
	}
	if os.Getenv(userVariable) != "" {
		fail(becomeUser(way))
	}
	mode := isolation.Namespaces
	if way == Chroot {
		mode = isolation.Chroot
	}
	place, err := isolation.Enter(context.Background(), isolation.Options{
		Mode: mode, Home: filepath.Join(os.TempDir(), "home"), Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if done, ok := errors.AsType[*isolation.Exited](err); ok {
		os.Exit(done.Code)
	}
	want := map[string]isolation.Kind{Chroot: isolation.PrivateRoot, OneID: isolation.SingleID, ManyIDs: isolation.UserNamespace}
	if err == nil && place.Kind != want[way] {
		err = fmt.Errorf("got to %s, want %s", place.Kind, want[way])
	}
	if err = errors.Join(err, os.Unsetenv(wayVariable), os.Setenv(thereVariable, way)); err != nil {
		fail(err)
	}
	return place
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "isolationtest:", err)
	os.Exit(1)
}

// becomeUser executes the program again, as the user. The accounts of the machine stay as they are for all others.
func becomeUser(way string) error {
	if err := os.Unsetenv(userVariable); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	ids := ""
	if way == ManyIDs {
		ids = fmt.Sprintf("%s:600100000:65536\n", userName)
	}
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::/:/bin/false\n", userName, userID, userID), "/etc/subuid": ids, "/etc/subgid": ids,
	} {
		if err := extend(file, line); err != nil {
			return err
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(userID), syscall.Setuid(userID)); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ()) //nolint:gosec // this program again
}

// extend lets a file end with one more line, in this mount namespace.
func extend(file, line string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	longer := filepath.Join(os.TempDir(), filepath.Base(file))
	if err := os.WriteFile(longer, append(data, line...), 0o644); err != nil {
		return err
	}
	return unix.Mount(longer, file, "", unix.MS_BIND, "")
}

// Run runs tests of this binary in one of the ways, and fails t with their output when they fail.
func Run(t *testing.T, way, tests string) {
	t.Helper()
	if Way() != "" {
		t.Skip("this is one of the ways already")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it becomes other users")
	}
	if _, err := exec.LookPath("newuidmap"); err != nil && way == ManyIDs {
		t.Skip("needs newuidmap (apt-get install uidmap)")
	}
	dir, err := os.MkdirTemp("", "slipway-test-") //nolint:usetesting // the parents of t.TempDir are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	program := filepath.Join(dir, "isolated.test") // where others can execute it
	if err := copyProgram(program); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "-test.run="+tests)
	cmd.Env = append(os.Environ(), wayVariable+"="+way, "TMPDIR="+dir, "HOME="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if way != Chroot {
		cmd.Env = append(cmd.Env, userVariable+"=yes")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		if err := os.Chown(dir, userID, userID); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Run(); err != nil || !bytes.HasSuffix(out.Bytes(), []byte("PASS\n")) {
		t.Errorf("%v\n%s", err, out.Bytes())
	}
}

// copyProgram makes a copy of this program.
func copyProgram(to string) (err error) {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
