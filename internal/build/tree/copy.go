package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Owner is who a copied file belongs to.
type Owner struct{ UID, GID int }

// Options says what one COPY or ADD instruction asks for, with every name already resolved to a number.
type Options struct {
	// Owner of everything copied or made. Default: files keep theirs, folders made on the way are root's.
	Owner *Owner
	// Chmod changes the mode of everything copied but symbolic links. Default: modes are kept.
	Chmod *Chmod
	// Made is the time of folders made on the way. Default: the zero time.
	Made time.Time
}

// Copy gathers what an instruction leaves in the file system. Its rules are those of BuildKit's file operations
// (solver/llbsolver/file and fsutil/copy): parents are made as needed, a folder's contents are copied rather than the
// folder, a folder merges into a folder, and a file never replaces a folder nor a folder a file.
//
// It is used by one goroutine.
type Copy struct {
	below Tree
	opts  Options
	files map[string]*layer.File
	fresh map[string]bool // folders of files that hide whatever is below them
	names map[inode]string
	// pending are folders on the way to the file being copied which are not taken for themselves.
	pending []pending
}

// pending is a folder of a source that is copied when something in it is.
type pending struct {
	src  Tree
	dir  layer.Entry
	to   string
	done bool
}

type inode struct{ dev, ino uint64 }

// NewCopy starts an instruction on top of the file system below.
func NewCopy(below Tree, opts Options) *Copy {
	return &Copy{below: below, opts: opts, files: map[string]*layer.File{}, fresh: map[string]bool{}, names: map[inode]string{}}
}

// Files are what the instruction made so far, in the order that a layer holds them: sorted, parents first. Folders of
// the file system below that something was put into are among them, as an overlay's upper directory has them.
func (c *Copy) Files() iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		for _, p := range c.sorted() {
			if !yield(*c.files[p], nil) {
				return
			}
		}
	}
}

// Entries are the Files without their content.
func (c *Copy) Entries() []layer.Entry {
	entries := make([]layer.Entry, 0, len(c.files))
	for _, p := range c.sorted() {
		entries = append(entries, c.files[p].Entry)
	}
	return entries
}

func (c *Copy) sorted() []string { return slices.SortedFunc(maps.Keys(c.files), comparePaths) }

// Len is how many files there are.
func (c *Copy) Len() int { return len(c.files) }

// comparePaths orders paths element by element, so that a folder comes right before what it holds.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

// Lstat shows the file system as the instruction has changed it so far.
func (c *Copy) Lstat(p string) (layer.Entry, error) {
	if f, ok := c.files[p]; ok {
		return f.Entry, nil
	}
	for dir := parent(p); p != "."; dir = parent(dir) {
		if f, ok := c.files[dir]; ok && (!f.Mode.IsDir() || c.fresh[dir]) {
			return layer.Entry{}, fmt.Errorf("%q: %w", "/"+p, errs.NotFound)
		}
		if dir == "." {
			break
		}
	}
	return c.below.Lstat(p)
}

// exists is Lstat for those to whom absence is an answer.
func (c *Copy) exists(p string) (layer.Entry, bool, error) {
	e, err := c.Lstat(p)
	if notExist(err) {
		return layer.Entry{}, false, nil
	}
	return e, err == nil, err
}

// Add copies one source of the instruction, a path of src, to dest: as a file of that name, or into it when dest ends
// in a slash or is a folder. Of what is below a folder only that is copied which filter takes.
func (c *Copy) Add(src Tree, from, dest string, filter *Filter) error {
	e, err := source(src, from)
	if err != nil {
		return err
	}
	if err := c.makeDest(dest); err != nil {
		return err
	}
	to, err := Resolve(c, dest, true)
	if err != nil {
		return err
	}
	there, ok, err := c.exists(to)
	if err != nil {
		return err
	}
	if !e.Mode.IsDir() && ok && there.Mode.IsDir() {
		to = join(to, path.Base(clean(from)))
	}
	into := parent(to)
	if e.Mode.IsDir() && !ok {
		into = to
	}
	if err := c.MakeDir(into); err != nil {
		return err
	}
	return c.copy(src, e, to, false, verdict{taken: true, below: sieve{filter: filter}})
}

// Put copies a file or a folder of src to a path where nothing is, as it is there: a folder keeps its own mode and owner,
// too, which Add leaves to what it makes on the way.
func (c *Copy) Put(src Tree, from, to string) error {
	e, err := source(src, from)
	if err != nil {
		return err
	}
	if err := c.MakeDir(parent(clean(to))); err != nil {
		return err
	}
	return c.copy(src, e, clean(to), true, verdict{taken: true})
}

// makeDest makes what stands before the last slash of dest.
func (c *Copy) makeDest(dest string) error {
	dir, file := path.Split(dest)
	if file == "" || file == "." {
		dir = dest
	}
	to, err := Resolve(c, dir, true)
	if err != nil {
		return err
	}
	return c.MakeDir(to)
}

// Extract lays an unpacked archive over dest, which is made if it is not there. Names in the archive replace what they
// meet, folders excepted, which merge and take the archive's mode and owner. Modes are the archive's, whatever Chmod
// says.
func (c *Copy) Extract(archive Tree, dest string) error {
	chmod := c.opts.Chmod
	c.opts.Chmod = nil
	defer func() { c.opts.Chmod = chmod }()
	to, err := Resolve(c, dest, true)
	if err != nil {
		return err
	}
	if err := c.MakeDir(to); err != nil {
		return err
	}
	children, err := archive.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range children {
		if err := c.extract(archive, e, join(to, e.Path)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Copy) extract(archive Tree, e layer.Entry, to string) error {
	there, ok, err := c.exists(to)
	if err != nil {
		return err
	}
	if ok && there.Mode.IsDir() != e.Mode.IsDir() {
		c.remove(to)
	}
	if !e.Mode.IsDir() {
		return c.put(archive, e, to)
	}
	if err := c.putDir(archive, e, to, ok && there.Mode.IsDir()); err != nil {
		return err
	}
	children, err := archive.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := c.extract(archive, child, join(to, path.Base(child.Path))); err != nil {
			return err
		}
	}
	return nil
}

// remove forgets what the instruction put at p or below; what the file system below has there is hidden by whatever
// replaces it.
func (c *Copy) remove(p string) {
	for q := range c.files {
		if q == p || strings.HasPrefix(q, p+"/") {
			delete(c.files, q)
			delete(c.fresh, q)
		}
	}
}

// MakeDir makes a folder, whose path holds no links, and the parents it lacks.
func (c *Copy) MakeDir(p string) error {
	e, ok, err := c.exists(p)
	if err != nil {
		return err
	}
	if ok {
		if !e.Mode.IsDir() {
			return fmt.Errorf("%s: not a directory: %w", "/"+p, errs.Invalid)
		}
		return nil
	}
	if p == "." { // an empty file system: its root is there all the same
		return nil
	}
	if err := c.MakeDir(parent(p)); err != nil {
		return err
	}
	f := layer.File{Entry: layer.Entry{Path: p, Mode: c.opts.Chmod.Made(), ModTime: c.opts.Made}}
	if o := c.opts.Owner; o != nil {
		f.UID, f.GID = o.UID, o.GID
	}
	c.fresh[p] = true
	return c.place(f)
}

// copy puts one file, or a folder with what is taken of it, at to. An existing folder keeps its own mode and owner
// unless overwrite is set, which it is for every folder but the one an instruction names.
func (c *Copy) copy(src Tree, e layer.Entry, to string, overwrite bool, v verdict) error {
	if v.taken {
		if err := c.copyPending(); err != nil {
			return err
		}
	}
	if e.Mode.IsDir() {
		return c.copyDir(src, e, to, overwrite, v)
	}
	if !v.taken {
		return nil
	}
	there, ok, err := c.exists(to)
	if err != nil {
		return err
	}
	if ok && there.Mode.IsDir() {
		return fmt.Errorf("cannot replace directory %s with a file: %w", "/"+to, errs.Invalid)
	}
	return c.put(src, e, to)
}

func (c *Copy) copyDir(src Tree, e layer.Entry, to string, overwrite bool, v verdict) error {
	if v.taken {
		merge, err := c.mayMerge(to)
		if err != nil {
			return err
		}
		if !merge || overwrite {
			if err := c.putDir(src, e, to, merge); err != nil {
				return err
			}
		}
	}
	c.pending = append(c.pending, pending{src: src, dir: e, to: to, done: v.taken})
	defer func() { c.pending = c.pending[:len(c.pending)-1] }()
	children, err := src.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, child := range children {
		name := path.Base(child.Path)
		below, err := v.below.child(name)
		if err != nil {
			return err
		}
		if !below.taken && below.prune {
			continue
		}
		if err := c.copy(src, child, join(to, name), true, below); err != nil {
			return err
		}
	}
	return nil
}

// mayMerge says whether there is a folder at a path where one is to be put. Anything else there is in the way.
func (c *Copy) mayMerge(to string) (bool, error) {
	there, ok, err := c.exists(to)
	if err == nil && ok && !there.Mode.IsDir() {
		err = fmt.Errorf("cannot copy a directory to %s, which is not one: %w", "/"+to, errs.Invalid)
	}
	return ok, err
}

// copyPending copies the folders above something that is taken. As in BuildKit one that is there already gets the
// source's mode and keeps its owner.
func (c *Copy) copyPending() error {
	for i := range c.pending {
		p := &c.pending[i]
		if p.done {
			continue
		}
		p.done = true
		merge, err := c.mayMerge(p.to)
		if err != nil {
			return err
		}
		if !merge {
			if err := c.putDir(p.src, p.dir, p.to, false); err != nil {
				return err
			}
			continue
		}
		there, err := c.Lstat(p.to)
		if err != nil {
			return err
		}
		there.Mode, there.Opaque = p.dir.Mode, false
		if err := c.place(layer.File{Entry: there}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Copy) putDir(src Tree, e layer.Entry, to string, merge bool) error {
	f, err := c.file(src, e, to)
	if err != nil {
		return err
	}
	if !merge {
		c.fresh[to] = true
	}
	return c.place(f)
}

// put places anything but a folder.
func (c *Copy) put(src Tree, e layer.Entry, to string) error {
	f, err := c.file(src, e, to)
	if err != nil {
		return err
	}
	return c.place(f)
}

// file is a source's file under its new name, owner and mode.
func (c *Copy) file(src Tree, e layer.Entry, to string) (layer.File, error) {
	f := layer.File{Entry: e}
	f.Path, f.Opaque = to, false
	if o := c.opts.Owner; o != nil {
		f.UID, f.GID = o.UID, o.GID
	}
	if e.Mode.Type() != fs.ModeSymlink {
		f.Mode = c.opts.Chmod.Apply(e.Mode)
	}
	f.Hard = false
	if e.Mode.Type() != fs.ModeSymlink {
		f.Link = ""
	}
	if !e.Mode.IsRegular() {
		return f, nil
	}
	host, err := src.HostPath(e.Path)
	if err != nil {
		return f, err
	}
	if host != "" {
		if err := c.link(host, &f); err != nil || f.Hard {
			return f, err
		}
		f.Source = host
		if folder, ok := undated(src).(*Folder); ok {
			f.Ctime = folder.ctime(e.Path)
		}
	}
	f.Open = func() (io.ReadCloser, error) { return src.Open(e.Path) }
	return f, nil
}

// link fills in what only the host knows of a regular file: its extended attributes, and whether it is another name of
// one already copied.
func (c *Copy) link(host string, f *layer.File) error {
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: host, Err: err}
	}
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := c.names[id]; ok && c.files[first] != nil {
			f.Link, f.Hard = first, true
			return nil
		}
		c.names[id] = f.Path
	}
	if f.Xattrs == nil {
		x, err := xattrs(host)
		f.Xattrs = x
		return err
	}
	return nil
}

// place adds a file, with the folders above it that exist below, as an overlay copies them up.
func (c *Copy) place(f layer.File) error {
	for dir := parent(f.Path); dir != "." && c.files[dir] == nil; dir = parent(dir) {
		e, err := c.below.Lstat(dir)
		if err != nil {
			return err
		}
		e.Opaque = false // that was said of the layer it came from
		c.files[dir] = &layer.File{Entry: e}
	}
	c.files[f.Path] = &f
	return nil
}

// xattrs reads the extended attributes that a layer carries: file capabilities and the user's own.
func xattrs(host string) (map[string]string, error) {
	var buf [256]byte
	n, err := unix.Llistxattr(host, buf[:])
	names := buf[:max(n, 0)]
	if errors.Is(err, unix.ERANGE) {
		if n, err = unix.Llistxattr(host, nil); err == nil {
			names = make([]byte, n)
			n, err = unix.Llistxattr(host, names)
			names = names[:max(n, 0)]
		}
	}
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("llistxattr "+host, err)
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") && name != layer.OwnerAttr || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(host, name, value)
		if err != nil {
			return nil, os.NewSyscallError("lgetxattr "+host, err)
		}
		found[name] = string(value[:n])
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found, nil
}
