package sandbox

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"slipway/internal/errs"
)

// DefaultPath is where commands are looked up when Env has no PATH, as in Docker.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Networks a sandbox can be in.
const (
	NetworkHost = "host" // the network of slipway
	NetworkNone = "none" // a loopback interface and nothing else
)

// Spec describes one sandbox. Either Lower, Upper and Work are given, or Root.
type Spec struct {
	// Lower are the layer folders of the root file system, top first, with overlay's whiteouts. Any path will do:
	// colons, commas and length do not matter. Up to 499.
	Lower []string
	// Upper receives what the command changes; Work is overlay's scratch folder on the same file system. No other
	// process may use either meanwhile. They are written without syncing to disk: after a crash of the machine, start
	// again with empty ones.
	Upper, Work string
	// Stub is a folder made by MakeStub, on the file system of Upper. As a layer below Lower it provides the mount points
	// of /proc, /etc/resolv.conf and so on that the image lacks. Default: they are made in Upper, and removed afterwards.
	Stub string
	// Root is a folder to use as the root file system directly, in place of an overlay.
	Root string
	// Chroot enters Root by chroot(2) alone, with CAP_SYS_CHROOT and nothing else: the command shares all namespaces with
	// slipway, may not chroot or make device nodes itself, and everything that it started is killed when it ends. There can
	// be no Mounts, Devices and Files, no network but the host's, and no Grace. Package chroot has what is missing.
	Chroot bool

	// Args is the command. Without a slash, Args[0] is looked up in the PATH of Env, inside the root.
	Args []string
	// Env is the whole environment, KEY=value. Default: empty.
	Env []string
	// Cwd is the working directory, which must exist. Default: /.
	Cwd string
	// UID, GID and Groups are whom the command runs as. Root has Docker's default capabilities, others have none.
	UID, GID uint32
	Groups   []uint32
	// Hostname is the host's name inside. Default: slipway.
	Hostname string
	// Network is NetworkHost or NetworkNone. Default: host.
	Network string
	// Namespace is the path of a network namespace to be in, in place of Network.
	Namespace string
	// Mounts are put over the root in order of depth.
	Mounts []Mount
	// Devices are nodes that work inside, apart from those that every command has.
	Devices []Device
	// Files are small files over the root that exist while the command runs: /etc/resolv.conf, /etc/hosts, secrets.
	Files []File
	// Insecure lifts the restrictions of a command that may do anything on the machine (RUN --security=insecure): all
	// capabilities, all system calls, devices, a writable /sys. Namespaces stay.
	Insecure bool

	// Stdin is the command's standard input; when it is not an *os.File, its Read must return some time after the
	// command has ended. Default: empty.
	Stdin io.Reader `json:"-"`
	// Stdout and Stderr receive output; an *os.File is handed over as it is. Default: discarded.
	Stdout, Stderr io.Writer `json:"-"`
	// Group limits resources. Default: no limits.
	Group *Group `json:"-"`
	// Grace is how long the command may take to end after SIGTERM when the context is done, before everything is
	// killed. Default: 0, killed at once.
	Grace time.Duration `json:"-"`
}

// Mount types.
const (
	MountBind    = "bind"    // a file, socket or folder of the machine
	MountTmpfs   = "tmpfs"   // an empty folder in memory
	MountOverlay = "overlay" // a file or folder of a stack of layers, as another root file system has it
)

// Mount is one thing put over the root file system. Devices never work on it.
type Mount struct {
	Type string // MountBind, MountTmpfs or MountOverlay
	// Source is what is mounted. MountBind: an absolute path on this machine; mounts below it are not seen.
	// MountOverlay: an absolute path in the stack, where symbolic links are followed as if it were the root.
	Source   string
	Target   string // an absolute path inside, made for the time of the run when it is missing
	ReadOnly bool
	// NoSUID and NoExec forbid to gain privileges by its files, and to execute them.
	NoSUID, NoExec bool
	// Lower are MountOverlay's layer folders, as Spec.Lower.
	Lower []string
	// Upper and Work receive what is written to a MountOverlay, as Spec.Upper and Work. Default: it is read-only.
	Upper, Work string
	Size        int64       // MountTmpfs: bytes. Default: half of the memory
	Mode        fs.FileMode // MountTmpfs: permissions. Default: 1777
}

// Device is a node of one of the machine's devices.
type Device struct {
	Path string // inside, absolute; made for the time of the run when it is missing
	// Source is the machine's node, which is shown as it is where a user namespace can make none.
	Source       string
	Block        bool // a block device; else a character device
	Major, Minor uint32
	Mode         fs.FileMode // permissions. Default: 0666
	UID, GID     uint32
}

// File is content put over a path of the root, private to the run: what the command writes to it is lost.
type File struct {
	Target   string // an absolute path inside, made for the time of the run when it is missing
	Data     []byte
	Mode     fs.FileMode // permissions. Default: 0644
	UID, GID uint32
}

// Result says how the command ended.
type Result struct {
	// ExitCode is the command's, 128+Signal when a signal killed it, and as in a shell 127 when it was not found and 126
	// when it could not be executed (both come with an error).
	ExitCode int
	// Signal is the number of the signal that killed the command, or 0.
	Signal int
	// OOM says that the kernel killed a process of the group for want of memory during the run.
	OOM bool
	// User and System are the processor time of all processes that ended before the command did.
	User, System time.Duration
	// MaxRSS is the largest resident set of any one of them, in bytes.
	MaxRSS int64
}

// CPU is the processor time used in all.
func (r Result) CPU() time.Duration { return r.User + r.System }

// check refuses what init could only misunderstand.
func (s *Spec) check() error {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return fmt.Errorf("no command: %w", errs.Invalid)
	}
	if err := s.checkRoot(); err != nil {
		return err
	}
	if s.Chroot && (s.Root == "" || len(s.Mounts)+len(s.Devices)+len(s.Files) > 0 || s.Network == NetworkNone || s.Insecure || s.Grace > 0) {
		return fmt.Errorf("chroot takes a root, and no mounts, files, network, privileges or grace: %w", errs.Invalid)
	}
	if s.Network != "" && s.Network != NetworkHost && s.Network != NetworkNone {
		return fmt.Errorf("network %q: %w", s.Network, errs.Invalid)
	}
	if s.Namespace != "" && (s.Network == NetworkNone || s.Chroot || !filepath.IsAbs(s.Namespace)) {
		return fmt.Errorf("network namespace %q: an absolute path, beside no other network: %w", s.Namespace, errs.Invalid)
	}
	for i := range s.Mounts {
		if err := s.Mounts[i].check(); err != nil {
			return fmt.Errorf("mount %s: %w", s.Mounts[i].Target, err)
		}
	}
	for _, d := range s.Devices {
		if !filepath.IsAbs(d.Source) {
			return fmt.Errorf("device %s: %q is not an absolute path: %w", d.Path, d.Source, errs.Invalid)
		}
	}
	for _, target := range s.targets() {
		if err := checkTarget(target); err != nil {
			return err
		}
	}
	return s.checkStrings()
}

func (m *Mount) check() error {
	switch m.Type {
	case MountTmpfs:
		return nil
	case MountOverlay:
		if len(m.Lower) == 0 || (m.Upper == "") != (m.Work == "") {
			return fmt.Errorf("an overlay needs lower folders, and both an upper and a work folder or none: %w", errs.Invalid)
		}
	case MountBind:
	default:
		return fmt.Errorf("type %q: %w", m.Type, errs.Invalid)
	}
	for _, p := range append([]string{m.Source, m.Upper, m.Work}, m.Lower...) {
		if p != "" && !filepath.IsAbs(p) || m.Source == "" {
			return fmt.Errorf("%q is not an absolute path: %w", p, errs.Invalid)
		}
	}
	return nil
}

func (s *Spec) checkRoot() error {
	overlay := len(s.Lower) > 0 || s.Stub != "" || s.Upper != "" || s.Work != ""
	if overlay == (s.Root != "") {
		return fmt.Errorf("either an overlay or a root folder is needed: %w", errs.Invalid)
	}
	if overlay && (len(s.Lower)+len(s.stub()) == 0 || s.Upper == "" || s.Work == "") {
		return fmt.Errorf("an overlay needs lower folders, an upper and a work folder: %w", errs.Invalid)
	}
	if filepath.Clean(s.Root) == "/" {
		return fmt.Errorf("the machine's own root cannot be a sandbox's: %w", errs.Invalid)
	}
	for _, dir := range append([]string{s.Upper, s.Work, s.Stub, s.Root}, s.Lower...) {
		if dir != "" && !filepath.IsAbs(dir) {
			return fmt.Errorf("folder %q is not absolute: %w", dir, errs.Invalid)
		}
	}
	if s.Cwd != "" && !path.IsAbs(s.Cwd) {
		return fmt.Errorf("working directory %q is not absolute: %w", s.Cwd, errs.Invalid)
	}
	return nil
}

// targets are the paths inside that something is put over.
func (s *Spec) targets() []string {
	var all []string
	for _, m := range s.Mounts {
		all = append(all, m.Target)
	}
	for _, d := range s.Devices {
		all = append(all, d.Path)
	}
	for _, f := range s.Files {
		all = append(all, f.Target)
	}
	return all
}

// checkTarget keeps the root itself, /proc and /sys out of the reach of whoever writes --mount in a Dockerfile.
func checkTarget(target string) error {
	clean := path.Clean(target)
	if !path.IsAbs(target) || clean == "/" {
		return fmt.Errorf("mount target %q: want an absolute path below /: %w", target, errs.Invalid)
	}
	for _, own := range []string{"/proc", "/sys"} {
		if clean == own || strings.HasPrefix(clean, own+"/") {
			return fmt.Errorf("mount target %q: %s belongs to the sandbox: %w", target, own, errs.Invalid)
		}
	}
	return nil
}

// checkStrings finds the zero bytes that no system call can be told about.
func (s *Spec) checkStrings() error {
	for _, list := range [][]string{s.Args, s.targets(), {s.Cwd, s.Hostname}} {
		for _, v := range list {
			if strings.ContainsRune(v, 0) {
				return fmt.Errorf("%q holds a zero byte: %w", v, errs.Invalid)
			}
		}
	}
	for _, kv := range s.Env {
		if strings.ContainsRune(kv, 0) { // the value may be a secret
			name, _, _ := strings.Cut(kv, "=")
			return fmt.Errorf("variable %q holds a zero byte: %w", name, errs.Invalid)
		}
	}
	return nil
}

// stub is the layer below all others, if there is one.
func (s *Spec) stub() []string {
	if s.Stub == "" {
		return nil
	}
	return []string{s.Stub}
}

// ordinary tells whether a spare process, built for no spec in particular, will do.
func (s *Spec) ordinary() bool {
	return s.Network != NetworkNone && s.Namespace == "" && !s.Insecure && !s.Chroot
}

// arguments are for an init that starts for this spec alone.
func (s *Spec) arguments() []string {
	if s.Chroot {
		return []string{chrootArg}
	}
	return nil
}

// uppers are the folders that the sandbox writes to.
func (s *Spec) uppers() []string {
	dirs := []string{s.Upper + s.Root} // one of them is empty
	for i := range s.Mounts {
		if dir := s.Mounts[i].Upper; dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// layers are all folders of its overlays.
func (s *Spec) layers() []string {
	dirs := append(s.uppers(), s.Lower...)
	for i := range s.Mounts {
		dirs = append(dirs, s.Mounts[i].Lower...)
	}
	return dirs
}
