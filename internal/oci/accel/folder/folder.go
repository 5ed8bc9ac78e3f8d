// Package folder shows layers as folders whose files are fetched when they are read. A kernel's overlay can stack them:
// they look like the folders that package layer unpacks into.
//
//	node, err := folder.Stargz(reader, folder.Options{})
//	mount, err := fuse.Mount(ctx, dir, node, fuse.Options{})
//
// It is how the command line proves that an accelerated image is one, and how it learns which files a container reads
// when it starts. It is no snapshotter: nothing is kept, and the mount ends with the process.
package folder

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/fuse"
	"slipway/internal/oci/accel/estargz"
	"slipway/internal/oci/layer"
)

// Options say how a layer is shown.
type Options struct {
	// Opened is told the path of each regular file that is opened, each time. Default: nobody is.
	Opened func(path string)
	// CacheBytes is how much content is kept of what was fetched. Default: 64 MiB.
	CacheBytes int64
}

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	opaqueAttr     = "trusted.overlay.opaque"
)

// tree is the files of a layer, while they are being put together.
type tree struct {
	root *fuse.Node
	opts Options
}

func newTree(opts Options) *tree {
	return &tree{root: &fuse.Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*fuse.Node{}}, opts: opts}
}

// folder returns the folder at a path, which is made if nobody listed it.
func (t *tree) folder(name string) (*fuse.Node, error) {
	n := t.root
	if name == "." || name == "" {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		child := n.Children[part]
		if child == nil {
			child = &fuse.Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*fuse.Node{}}
			n.Children[part] = child
		}
		if child.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, errs.Mark(fmt.Errorf("%s: %s is no folder", name, part), errs.Corrupt)
		}
		n = child
	}
	return n, nil
}

// add puts a file at a path. A folder that is there already keeps what is in it.
func (t *tree) add(name string, n *fuse.Node) error {
	if name == "." || name == "" {
		if n.Mode&unix.S_IFMT != unix.S_IFDIR {
			return errs.Mark(fmt.Errorf("the root is no folder"), errs.Corrupt)
		}
		n.Children = t.root.Children
		t.root = n
		return nil
	}
	dir, err := t.folder(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	if n.Mode&unix.S_IFMT == unix.S_IFDIR {
		n.Children = map[string]*fuse.Node{}
		if old := dir.Children[base]; old != nil && old.Mode&unix.S_IFMT == unix.S_IFDIR {
			n.Children = old.Children
		}
	}
	dir.Children[base] = n
	return nil
}

// link gives a file one more name.
func (t *tree) link(name, target string) error {
	from, err := t.folder(path.Dir(target))
	if err != nil {
		return err
	}
	n := from.Children[path.Base(target)]
	if n == nil || n.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errs.Mark(fmt.Errorf("%s: hard link to %s, which is no file of this layer", name, target), errs.Corrupt)
	}
	n.Links = max(n.Links, 1) + 1
	dir, err := t.folder(path.Dir(name))
	if err == nil {
		dir.Children[path.Base(name)] = n
	}
	return err
}

// marker adds what the name of an entry says is deleted, and says whether it does.
func (t *tree) marker(name string) (bool, error) {
	base := path.Base(name)
	if base == opaqueName {
		dir, err := t.folder(path.Dir(name))
		if err == nil {
			dir.Xattrs = with(dir.Xattrs, opaqueAttr, "y")
		}
		return true, err
	}
	deleted, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok || strings.HasPrefix(deleted, whiteoutPrefix) || deleted == "" {
		return ok, nil // others of AUFS's own mean nothing
	}
	return true, t.add(path.Join(path.Dir(name), deleted), whiteout())
}

// whiteout is a file that deletes the one below, with the mode that others give it.
func whiteout() *fuse.Node { return &fuse.Node{Mode: unix.S_IFCHR | 0o600} }

func with(m map[string]string, key, value string) map[string]string {
	out := map[string]string{key: value}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// watch tells of a file that is opened.
func (t *tree) watch(n *fuse.Node, name string) {
	if t.opts.Opened != nil {
		n.Opened = func() { t.opts.Opened(name) }
	}
}

// Stargz shows an eStargz layer.
func Stargz(r *estargz.Reader, opts Options) (*fuse.Node, error) {
	t := newTree(opts)
	cache := newCache(opts.CacheBytes)
	var opaque []string
	for _, f := range r.Files() {
		if path.Base(f.Name) == opaqueName { // the folder may be listed after it
			opaque = append(opaque, f.Name)
			continue
		}
		marks, err := t.marker(f.Name)
		if err == nil && !marks {
			err = t.stargz(r, f, cache)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, name := range opaque {
		if _, err := t.marker(name); err != nil {
			return nil, err
		}
	}
	return t.root, nil
}

func (t *tree) stargz(r *estargz.Reader, f *estargz.File, cache *cache) error {
	if f.Type == "hardlink" {
		return t.link(f.Name, f.Link)
	}
	n := &fuse.Node{
		Mode: uint32(f.Mode)&0o7777 | types()[f.Type], UID: uint32(f.UID), GID: uint32(f.GID), Size: f.Size, ModTime: f.ModTime,
		Major: uint32(f.DevMajor), Minor: uint32(f.DevMinor), Target: f.Link,
	}
	for k, v := range f.Xattrs {
		if !strings.HasPrefix(k, "trusted.overlay.") { // a stranger's layer must not steer our overlay
			n.Xattrs = with(n.Xattrs, k, string(v))
		}
	}
	switch f.Type {
	case "symlink":
		n.Size = int64(len(f.Link))
	case "reg":
		t.watch(n, f.Name)
		n.Read = func(ctx context.Context, p []byte, off int64) (int, error) { return cache.readAt(ctx, r, f, p, off) }
	}
	return t.add(f.Name, n)
}

func types() map[string]uint32 {
	return map[string]uint32{
		"reg": unix.S_IFREG, "dir": unix.S_IFDIR, "symlink": unix.S_IFLNK, "char": unix.S_IFCHR, "block": unix.S_IFBLK, "fifo": unix.S_IFIFO,
	}
}

// Unpacked shows a folder that a layer was unpacked into, as it is.
func Unpacked(ctx context.Context, dir string, opts Options) (*fuse.Node, error) {
	t := newTree(opts)
	for f, err := range layer.Upper(ctx, dir) {
		if err == nil {
			err = t.file(dir, &f)
		}
		if err != nil {
			return nil, err
		}
	}
	return t.root, nil
}

func (t *tree) file(dir string, f *layer.File) error {
	if f.Whiteout {
		return t.add(f.Path, whiteout())
	}
	if f.Hard {
		return t.link(f.Path, f.Link)
	}
	n := &fuse.Node{
		Mode: unixMode(f.Mode), UID: uint32(f.UID), GID: uint32(f.GID), Size: f.Size, ModTime: f.ModTime,
		Major: f.Major, Minor: f.Minor, Target: f.Link, Xattrs: f.Xattrs,
	}
	if f.Opaque {
		n.Xattrs = with(n.Xattrs, opaqueAttr, "y")
	}
	switch {
	case f.Mode&fs.ModeSymlink != 0:
		n.Size = int64(len(f.Link))
	case f.Mode.IsRegular():
		t.watch(n, f.Path)
		source := f.Source
		if source == "" {
			source = path.Join(dir, f.Path)
		}
		n.Read = func(_ context.Context, p []byte, off int64) (int, error) { return readAt(source, p, off) }
	case f.IsDir():
		n.Size = 0
	}
	return t.add(f.Path, n)
}

// readAt opens the file for every read: there may be more files than descriptors, and few of them are read often.
func readAt(name string, p []byte, off int64) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(p, off)
	if n > 0 || err == io.EOF { //nolint:errorlint // ReadAt returns it as it is
		return n, nil
	}
	return n, err
}

// unixMode is a mode as stat(2) has it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, flag := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	switch m.Type() {
	case fs.ModeDir:
		return mode | unix.S_IFDIR
	case fs.ModeSymlink:
		return mode | unix.S_IFLNK
	case fs.ModeNamedPipe:
		return mode | unix.S_IFIFO
	case fs.ModeDevice | fs.ModeCharDevice:
		return mode | unix.S_IFCHR
	case fs.ModeDevice:
		return mode | unix.S_IFBLK
	case fs.ModeSocket:
		return mode | unix.S_IFSOCK
	}
	return mode | unix.S_IFREG
}
