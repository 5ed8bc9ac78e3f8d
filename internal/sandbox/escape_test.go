package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/isolation/isolationtest"
	"slipway/internal/sandbox"
)

// What a hostile command tries, and must not achieve. Decision 0002 lists the threats.

func lines(s string) []string {
	return slices.Collect(strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n"))
}

func TestEscapeHostProcessesAreInvisible(t *testing.T) {
	t.Parallel()
	var pids []string
	for _, name := range lines(busybox(t).withProbe(t).probe(t, []string{"ls", "/proc"})) {
		if name[0] >= '0' && name[0] <= '9' {
			pids = append(pids, name)
		}
	}
	if len(pids) != 2 || pids[0] != "1" {
		t.Errorf("processes inside = %v, want init and the command", pids)
	}
}

func TestEscapeInitIsClosed(t *testing.T) {
	t.Parallel()
	files := []string{"root/", "cwd/", "exe", "environ", "mem", "maps", "fd/3", "fdinfo/3", "auxv", "stack", "syscall", "task/1/mem", "ns/mnt"}
	for i, f := range files {
		files[i] = "/proc/1/" + f
	}
	for _, line := range lines(busybox(t).withProbe(t).probe(t, append([]string{"read"}, files...))) {
		if !strings.HasSuffix(line, " EACCES") && !strings.HasSuffix(line, " EPERM") {
			t.Error(line)
		}
	}
}

func TestEscapeOnlyStandardDescriptors(t *testing.T) {
	t.Parallel()
	// 3 is the folder being listed.
	got := lines(mustRun(t, busybox(t), "ls /proc/self/fd"))
	if diff := cmp.Diff([]string{"0", "1", "2", "3"}, got); diff != "" {
		t.Errorf("descriptors mismatch (-want +got):\n%s", diff)
	}
}

// TestEscapeThroughDescriptorsOfInit names init's own descriptors where a path is followed before they are closed on
// exec: as working directory, as the command and as its interpreter.
func TestEscapeThroughDescriptorsOfInit(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	spare := newLauncher(t)
	run := func(t *testing.T, change func(*sandbox.Spec)) {
		t.Helper()
		s, out := l.script("echo reached $PWD; ls -a ..")
		s.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Source: t.TempDir(), Target: "/mnt"}}
		change(s)
		res, err := spare.Run(t.Context(), s)
		if err == nil || out.Len() > 0 {
			t.Errorf("args %q in %q: result %+v, %v, output:\n%s", s.Args, s.Cwd, res, err, out)
		}
	}
	for fd := 3; fd < 24; fd++ {
		door := fmt.Sprintf("/proc/self/fd/%d", fd)
		run(t, func(s *sandbox.Spec) { s.Cwd = door })
		run(t, func(s *sandbox.Spec) { s.Args = []string{door + "/bin/sh", "-c", "echo reached"} })
		script := filepath.Join(l.lower, fmt.Sprintf("bin/script%d", fd))
		if err := os.WriteFile(script, []byte("#!"+door+"/bin/busybox echo\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, func(s *sandbox.Spec) { s.Args = []string{"/bin/" + filepath.Base(script)} })
	}
}

func TestEscapeDevicesDoNotWork(t *testing.T) {
	t.Parallel()
	l := busybox(t).withProbe(t)
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	args := []string{"disk", fmt.Sprint(st.Dev), "/", "/dev", "/dev/shm", "/cache", "/tmpfs"}
	got := l.probe(t, args, func(s *sandbox.Spec) {
		s.Mounts = []sandbox.Mount{
			{Type: sandbox.MountBind, Source: t.TempDir(), Target: "/cache"},
			{Type: sandbox.MountTmpfs, Target: "/tmpfs"},
		}
	})
	for _, line := range lines(got) {
		made, refused := strings.HasSuffix(line, "mknod allowed open EACCES"), strings.HasSuffix(line, "mknod EPERM open ENOENT")
		if !made && (!refused || isolationtest.Way() == "") {
			t.Error(line)
		}
	}
}

func TestEscapeMachinesDevicesCannotBeChanged(t *testing.T) {
	t.Parallel()
	before, err := os.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	l := busybox(t)
	if err := os.Symlink("busybox", filepath.Join(l.lower, "bin/chmod")); err != nil {
		t.Fatal(err)
	}
	mustRun(t, l, "chmod 600 /dev/null || true") // in a user namespace it is the machine's own, and refused
	after, err := os.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode() != after.Mode() {
		t.Errorf("the machine's /dev/null is %v now", after.Mode())
	}
}

func TestEscapeChroot(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(t.TempDir(), "marker")
	if err := os.WriteFile(marker, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := busybox(t).withProbe(t).probe(t, []string{"chroot", marker}); got != "ENOENT\n" {
		t.Errorf("looking for a file of the machine = %q", got)
	}
}

func TestEscapeSystemCalls(t *testing.T) {
	t.Parallel()
	for _, line := range lines(busybox(t).withProbe(t).probe(t, []string{"calls"})) {
		want := " EPERM"
		if strings.HasPrefix(line, "clone3 ") {
			want = " ENOSYS"
		}
		if !strings.HasSuffix(line, want) {
			t.Errorf("%s, want%s", line, want)
		}
	}
}

func TestEscapeKernelSettingsAreReadOnly(t *testing.T) {
	t.Parallel()
	files := []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname", "/proc/irq/default_smp_affinity",
		"/proc/bus/pci/devices", "/sys/kernel/mm/ksm/run", "/sys/kernel/uevent_helper", "/proc/sysrq-trigger",
	}
	for _, line := range lines(busybox(t).withProbe(t).probe(t, append([]string{"write"}, files...))) {
		if !strings.HasSuffix(line, " EROFS") && !strings.HasSuffix(line, " ENOENT") && !strings.HasSuffix(line, " EACCES") {
			t.Error(line)
		}
	}
}

func TestEscapeMaskedFilesAreEmpty(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	got := mustRun(t, l, `for f in kcore keys timer_list sched_debug interrupts; do [ ! -e /proc/$f ] || cat /proc/$f; done
		for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ ! -e $d ] || ls $d; done`)
	if got != "" {
		t.Errorf("masked paths show:\n%s", got)
	}
}

func TestEscapeStateFolderAndEnvironmentAreInvisible(t *testing.T) {
	const secret = "a-secret-of-slipway"
	t.Setenv("SLIPWAY_TEST_SECRET", secret)
	l := busybox(t)
	got := mustRun(t, l, "env; cat /proc/*/environ /proc/*/cmdline /proc/self/mountinfo 2>/dev/null; ls "+l.lower+" 2>/dev/null; true")
	got = strings.ReplaceAll(got, l.lower+" 2>/dev/null", "") // the command line itself
	for _, leak := range []string{secret, filepath.Dir(l.lower), "SLIPWAY", "GOGC", " ext4 "} {
		if strings.Contains(got, leak) {
			t.Errorf("%q is visible inside:\n%s", leak, got)
		}
	}
}

func TestEscapeProgramThroughScript(t *testing.T) {
	t.Parallel()
	staticExecutable(t)
	l := busybox(t)
	if err := os.WriteFile(filepath.Join(l.lower, "bin/script"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s := l.spec("script")
	s.Stdout = &out
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || res.ExitCode != 0 || out.String() != "interpreter EROFS\n" {
		t.Errorf("script: %+v, %v, output %q", res, err, out.String())
	}
}

func TestEscapeHostileImages(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	resolv := []sandbox.File{{Target: "/etc/resolv.conf", Data: []byte("nameserver 192.0.2.1\n")}}
	tests := []struct {
		name  string
		links map[string]string // in the image
		read  string            // where the file is seen inside
		kind  error
	}{
		{name: "proc is a link", links: map[string]string{"proc": outside}, kind: errs.Invalid},
		{name: "sys is a link", links: map[string]string{"sys": "/host"}, kind: errs.Invalid},
		{name: "dev is a link", links: map[string]string{"dev": "../../../../dev"}, kind: errs.Invalid},
		{name: "etc leads up", links: map[string]string{"etc": "../../../.."}, read: "/resolv.conf"},
		{name: "etc leads to the machine", links: map[string]string{"etc": outside}, read: outside + "/resolv.conf"},
		{name: "file leads to the machine", links: map[string]string{"etc/resolv.conf": outside + "/stub"}, read: outside + "/stub"},
		{name: "file leads nowhere", links: map[string]string{"etc/resolv.conf": "../run/x/stub.conf"}, read: "/run/x/stub.conf"},
		{name: "file leads through proc", links: map[string]string{"etc/resolv.conf": "/proc/1/root" + outside + "/x"}, kind: errs.Invalid},
		{name: "links in a circle", links: map[string]string{"etc": "etc2", "etc2": "etc"}, kind: errs.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := busybox(t)
			for name, target := range tt.links {
				path := filepath.Join(l.lower, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(target, path); err != nil {
					t.Fatal(err)
				}
			}
			s, out := l.script("cat " + tt.read)
			s.Files = resolv
			_, err := sandbox.Run(t.Context(), s)
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) {
					t.Errorf("error = %v, want kind %v", err, tt.kind)
				}
			} else if err != nil || out.String() != string(resolv[0].Data) {
				t.Errorf("error = %v, output %q", err, out)
			}
			if got := tree(t, outside); got != nil {
				t.Errorf("outside now has %v", got)
			}
			if got := tree(t, l.upper); got != nil {
				t.Errorf("upper folder now has %v", got)
			}
		})
	}
}

func TestPrivileges(t *testing.T) {
	t.Parallel()
	const docker = "00000000a80425fb"
	l := busybox(t).withProbe(t)
	tests := []struct {
		name   string
		change func(*sandbox.Spec)
		want   []string
	}{
		{"root", func(*sandbox.Spec) {}, []string{
			"Umask 0022", "Uid 0 0 0 0", "Gid 0 0 0 0", "Groups",
			"CapInh 0000000000000000", "CapPrm " + docker, "CapEff " + docker, "CapBnd " + docker, "CapAmb 0000000000000000",
			"NoNewPrivs 0", "Seccomp 2",
		}},
		{"user", func(s *sandbox.Spec) { s.UID, s.GID, s.Groups = 1000, 1001, []uint32{1001, 2000} }, []string{
			"Umask 0022", "Uid 1000 1000 1000 1000", "Gid 1001 1001 1001 1001", "Groups 1001 2000",
			"CapInh 0000000000000000", "CapPrm 0000000000000000", "CapEff 0000000000000000", "CapBnd " + docker, "CapAmb 0000000000000000",
			"NoNewPrivs 0", "Seccomp 2",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "user" {
				needUsers(t)
			}
			got := lines(l.probe(t, []string{"status"}, tt.change))
			for i := range got {
				got[i] = strings.TrimSpace(got[i])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("status mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetuidProgramsWork(t *testing.T) {
	t.Parallel()
	needUsers(t)
	l := busybox(t).withProbe(t)
	suid := filepath.Join(l.lower, "suid")
	copyFile(t, filepath.Join(l.lower, probePath), suid)
	if err := os.Chmod(suid, 0o4755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if got := l.probe(t, []string{"suid"}, func(s *sandbox.Spec) { s.UID, s.GID = 1000, 1000 }); got != "0\n" {
		t.Errorf("effective user of a setuid program = %q", got)
	}
}

func TestNetworkNone(t *testing.T) {
	t.Parallel()
	got := busybox(t).withProbe(t).probe(t, []string{"interfaces"}, func(s *sandbox.Spec) { s.Network = sandbox.NetworkNone })
	if got != "lo true\n" {
		t.Errorf("interfaces = %q, want loopback, up", got)
	}
}

func TestInsecureMayMount(t *testing.T) {
	t.Parallel()
	got := mustRun(t, busybox(t), "mkdir /m && mount -t tmpfs none /m && echo fine", func(s *sandbox.Spec) { s.Insecure = true })
	if got != "fine\n" {
		t.Errorf("output = %q", got)
	}
}
