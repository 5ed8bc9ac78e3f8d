package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Ignore decides which paths of a folder are not part of a tree.
type Ignore interface {
	// Ignored says whether a path is left out and, when it is a folder, whether everything below it is too. A folder
	// that is left out though something below may be in appears only when it does hold such a thing.
	Ignored(path string, isDir bool) (out, below bool, err error)
}

// FolderOptions says how a Folder shows its files.
type FolderOptions struct {
	// Ignore leaves files out. Default: nothing is left out.
	Ignore Ignore
	// AsRoot shows every file as owned by 0:0, as the build context is. Default: owners as they are.
	AsRoot bool
}

// Folder is a tree over a folder of this machine, read in place. What it has listed once it remembers, so a change of
// the folder during a build is not half seen.
type Folder struct {
	root string
	opts FolderOptions

	mu   sync.Mutex
	dirs map[string]*listing
}

type listing struct {
	once    sync.Once
	entries []layer.Entry
	stats   []Stat
	err     error
}

// Stat is what tells a changed file from an unchanged one without reading it (see Hasher).
type Stat struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds since 1970
	Nlink        uint64
}

// NewFolder returns the tree under root, which must be a folder; it may be a symbolic link to one.
func NewFolder(root string, opts FolderOptions) (*Folder, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	abs, err = filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, errs.Mark(err, errs.NotFound)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder: %w", root, errs.Invalid)
	}
	return &Folder{root: abs, opts: opts, dirs: map[string]*listing{}}, nil
}

// Root is the folder's absolute path without symbolic links.
func (f *Folder) Root() string { return f.root }

// Lstat implements Tree.
func (f *Folder) Lstat(p string) (layer.Entry, error) {
	e, _, err := f.stat(p)
	return e, err
}

func (f *Folder) stat(p string) (layer.Entry, Stat, error) {
	if p == "." {
		return f.lstatRoot()
	}
	l := f.list(parent(p))
	if l.err != nil {
		return layer.Entry{}, Stat{}, l.err
	}
	i, ok := slices.BinarySearchFunc(l.entries, p, func(e layer.Entry, p string) int { return strings.Compare(e.Path, p) })
	if !ok {
		return layer.Entry{}, Stat{}, fmt.Errorf("%q: %w", "/"+p, errs.NotFound)
	}
	return l.entries[i], l.stats[i], nil
}

// ctime is the inode change time of a file when it was listed; 0 when it is not there.
func (f *Folder) ctime(p string) int64 {
	_, st, err := f.stat(p)
	if err != nil {
		return 0
	}
	return st.Ctime
}

func (f *Folder) lstatRoot() (layer.Entry, Stat, error) {
	var st unix.Stat_t
	if err := unix.Lstat(f.root, &st); err != nil {
		return layer.Entry{}, Stat{}, &fs.PathError{Op: "lstat", Path: f.root, Err: err}
	}
	e := f.entry(".", &st)
	return e, statOf(&st), nil
}

// ReadDir implements Tree.
func (f *Folder) ReadDir(p string) ([]layer.Entry, error) {
	l := f.list(p)
	return l.entries, l.err
}

// Open implements Tree. The file is opened without following a link, so that a folder changed meanwhile cannot lead
// out of the tree.
func (f *Folder) Open(p string) (io.ReadCloser, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, f.host(p), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// HostPath implements Tree.
func (f *Folder) HostPath(p string) (string, error) { return f.host(p), nil }

func (f *Folder) host(p string) string {
	if p == "." {
		return f.root
	}
	return f.root + "/" + p
}

func (f *Folder) list(dir string) *listing {
	f.mu.Lock()
	l := f.dirs[dir]
	if l == nil {
		l = &listing{}
		f.dirs[dir] = l
	}
	f.mu.Unlock()
	l.once.Do(func() { l.entries, l.stats, l.err = f.read(dir) })
	return l
}

func (f *Folder) read(dir string) ([]layer.Entry, []Stat, error) {
	if dir != "." {
		e, err := f.Lstat(dir)
		if err != nil {
			return nil, nil, err
		}
		if !e.Mode.IsDir() {
			return nil, nil, fmt.Errorf("%q: not a folder: %w", "/"+dir, errs.NotFound)
		}
	}
	d, err := os.Open(f.host(dir))
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(names)
	entries := make([]layer.Entry, 0, len(names))
	stats := make([]Stat, 0, len(names))
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) { // removed since the listing
			continue
		}
		if err != nil {
			return nil, nil, &fs.PathError{Op: "lstat", Path: join(dir, name), Err: err}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK { // no layer can hold a socket
			continue
		}
		e := f.entry(join(dir, name), &st)
		in, err := f.included(e)
		if err != nil {
			return nil, nil, err
		}
		if !in {
			continue
		}
		if e.Mode.Type() == fs.ModeSymlink {
			if e.Link, err = os.Readlink(f.host(e.Path)); err != nil {
				return nil, nil, err
			}
		}
		entries, stats = append(entries, e), append(stats, statOf(&st))
	}
	return entries, stats, nil
}

// included says whether an entry is part of the tree.
func (f *Folder) included(e layer.Entry) (bool, error) {
	if f.opts.Ignore == nil {
		return true, nil
	}
	out, below, err := f.opts.Ignore.Ignored(e.Path, e.Mode.IsDir())
	if err != nil {
		return false, err
	}
	if !out || !e.Mode.IsDir() || below {
		return !out, nil
	}
	return f.holdsIncluded(e.Path)
}

// holdsIncluded looks below an ignored folder for something that an exception brings back.
func (f *Folder) holdsIncluded(dir string) (bool, error) {
	children, err := os.ReadDir(f.host(dir))
	if err != nil {
		return false, err
	}
	for _, c := range children {
		p := join(dir, c.Name())
		out, below, err := f.opts.Ignore.Ignored(p, c.IsDir())
		if err != nil {
			return false, err
		}
		if !out {
			return true, nil
		}
		if c.IsDir() && !below {
			if in, err := f.holdsIncluded(p); in || err != nil {
				return in, err
			}
		}
	}
	return false, nil
}

func (f *Folder) entry(p string, st *unix.Stat_t) layer.Entry {
	e := layer.Entry{
		Path:    p,
		Mode:    layer.FileMode(st.Mode),
		UID:     int(st.Uid),
		GID:     int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
	}
	if f.opts.AsRoot {
		e.UID, e.GID = 0, 0
	}
	if e.Mode.IsRegular() {
		e.Size = st.Size
	}
	if e.Mode&fs.ModeDevice != 0 {
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return e
}

func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: st.Dev, Ino: st.Ino, Size: st.Size, Nlink: st.Nlink,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}
}
