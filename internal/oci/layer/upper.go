package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Upper yields what is in dir, the upper directory of an overlay mount, as the files of a layer: each directory before
// what is in it, names in byte order, so that the same tree always gives the same layer. The root itself is not
// among them.
//
// Whiteouts and opaque directories are recognised as the kernel writes them. Further names of a file are hard links to
// the first that was met. Sockets are left out, as Docker does; the overlay's own attributes never show. Extended
// attributes are security.capability and those of users (user.*). The cost is that of the entries in dir, whatever is
// below them.
//
// An error ends the sequence. A directory that the overlay renamed without copying (redirect_dir, metacopy) does not
// hold its content: that is an error of kind errs.Invalid.
func Upper(ctx context.Context, dir string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		w := &walker{ctx: ctx, root: dir, links: map[FileID]string{}, yield: yield}
		if err := w.dir(""); err != nil && !errors.Is(err, errStopped) {
			yield(File{}, fmt.Errorf("read %s: %w", dir, err))
		}
	}
}

// errStopped says that whoever ranges over the files wants no more of them.
var errStopped = errors.New("stopped")

// walker walks a directory depth first with one descriptor open at a time.
type walker struct {
	ctx   context.Context //nolint:containedctx // lives for one walk
	root  string
	links map[FileID]string // files with several names -> the first
	yield func(File, error) bool
	names []byte    // scratch for getdents
	attrs [256]byte // scratch for listxattr: as many names as nearly every file has
}

// dir yields what is in the directory at rel, which is empty or ends with a slash.
func (w *walker) dir(rel string) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	nodes, err := w.list(rel)
	if err != nil {
		return err
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Mode.Type() == fs.ModeSocket {
			continue
		}
		if !w.yield(w.file(n), nil) {
			return errStopped
		}
		if n.IsDir() {
			if err := w.dir(n.Path + "/"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walker) list(rel string) ([]Node, error) {
	abs := w.root + "/" + rel
	fd, err := openFile(unix.AT_FDCWD, abs, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	defer unix.Close(fd)
	return w.nodes(fd, rel, abs)
}

// file adds to a node where its content is, and whether it is one more name of a file that was there before.
func (w *walker) file(n *Node) File {
	f := File{Entry: n.Entry}
	if n.ID != (FileID{}) {
		if first, seen := w.links[n.ID]; seen {
			f.Hard, f.Link = true, first
			return f
		}
		w.links[n.ID] = n.Path
	}
	if f.IsRegular() {
		source := w.root + "/" + n.Path
		f.Source = source
		f.Open = func() (io.ReadCloser, error) { return os.Open(source) }
	}
	return f
}

// readNames returns the names in a directory. It is os.File.Readdirnames without a File.
func (w *walker) readNames(fd int) ([]string, error) {
	if w.names == nil {
		w.names = make([]byte, 64<<10)
	}
	var names []string
	for {
		n, err := unix.ReadDirent(fd, w.names)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(w.names[:n], -1, names)
	}
}

// statEntry turns what stat says into an entry.
func statEntry(rel string, st *unix.Stat_t) Entry {
	e := Entry{
		Path: rel, Mode: FileMode(st.Mode), UID: int(st.Uid), GID: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		e.Whiteout = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
	}
	return e
}

// xattrs reads the extended attributes that belong to a layer, and obeys those of the overlay.
func (w *walker) xattrs(e *Entry, abs string) error {
	names := w.attrs[:]
	n, err := unix.Llistxattr(abs, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Llistxattr(abs, names)
	}
	if unsupportedXattr(err) || n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		if err := w.xattr(e, abs, string(name)); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) xattr(e *Entry, abs, name string) error {
	if own, ok := overlayAttr(name); ok {
		return w.overlay(e, abs, name, own)
	}
	if name != "security.capability" && !strings.HasPrefix(name, "user.") {
		return nil
	}
	value, err := getXattr(abs, name)
	if err != nil {
		return fmt.Errorf("read extended attribute %s: %w", name, err)
	}
	if name == OwnerAttr {
		if oneID() {
			e.noted(value)
		}
		return nil
	}
	if e.Xattrs == nil {
		e.Xattrs = map[string]string{}
	}
	e.Xattrs[name] = value
	return nil
}

// overlay obeys an attribute of the overlay file system (Documentation/filesystems/overlayfs.rst).
func (w *walker) overlay(e *Entry, abs, name, own string) error {
	switch own {
	case "opaque":
		value, err := getXattr(abs, name)
		if err != nil {
			return fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		e.Opaque = e.Opaque || value == "y" // "x" marks directories with whiteouts in the form of attributes
	case "whiteout":
		e.Whiteout = e.Whiteout || e.Mode.IsRegular() && e.Size == 0
	case "redirect", "metacopy":
		return errs.Hint(fmt.Errorf("the overlay holds only a reference (%s): %w", name, errs.Invalid),
			"mount overlays with redirect_dir=off,metacopy=off")
	}
	return nil
}

// overlayAttr returns the name of an attribute inside the overlay file system's own space.
func overlayAttr(name string) (string, bool) {
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if own, ok := strings.CutPrefix(name, prefix); ok {
			return own, true
		}
	}
	return "", false
}

func getXattr(path, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		if errors.Is(err, unix.ERANGE) {
			buf = make([]byte, 64<<10) // XATTR_SIZE_MAX: no value is longer
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}

func unsupportedXattr(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS)
}
