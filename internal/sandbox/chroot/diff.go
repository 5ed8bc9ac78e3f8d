package chroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/oci/layer"
)

// stamp changes whenever a file does: the kernel sets the change time with everything else, and nobody can set it back.
type stamp struct {
	dev, inode uint64
	ctime      int64
	dir        bool
}

// scan stamps everything in the root but what was put there for the time of the run. A layer says nothing of the root
// itself.
func (s *stage) scan(ctx context.Context) (map[string]stamp, error) {
	w := &scanner{ctx: ctx, stage: s, names: make([]byte, 64<<10), found: map[string]stamp{}}
	if err := w.dir(unix.AT_FDCWD, s.dir, ""); err != nil {
		return nil, fmt.Errorf("look for changes: %w", err)
	}
	return w.found, nil
}

// scanner is one scan. It costs a RUN a look at every file, so that it looks by descriptor and not by path.
type scanner struct {
	*stage
	ctx   context.Context //nolint:containedctx // lives for one scan
	names []byte          // scratch for getdents
	found map[string]stamp
}

// dir stamps what is in the folder name of at, whose paths begin with prefix.
func (w *scanner) dir(at int, name, prefix string) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: prefix, Err: err}
	}
	defer unix.Close(fd)
	names, err := w.list(fd)
	if err != nil {
		return &fs.PathError{Op: "list", Path: prefix, Err: err}
	}
	for _, name := range names {
		p := prefix + name
		if w.covered[p] {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "stat", Path: p, Err: err}
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFSOCK {
			continue // no layer can hold one
		}
		w.found[p] = stamp{st.Dev, st.Ino, st.Ctim.Nano(), kind == unix.S_IFDIR}
		if kind == unix.S_IFDIR {
			if err := w.dir(fd, name, p+"/"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *scanner) list(fd int) (names []string, err error) {
	for {
		n, err := unix.ReadDirent(fd, w.names)
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(w.names[:n], -1, names)
	}
}

// changes are the files of a layer: what is new or has changed, with the folders above, and whiteouts for what is gone.
// Those of forced are taken whether or not they changed.
func (s *stage) changes(ctx context.Context, was map[string]stamp, forced []string) ([]layer.File, error) {
	is, err := s.scan(ctx)
	if err != nil {
		return nil, err
	}
	take := map[string]bool{}
	for _, p := range forced {
		if _, there := is[p]; there {
			take[p] = true
		}
	}
	for p, now := range is {
		if now != was[p] {
			take[p] = true
		}
	}
	for _, p := range missing(was, is) {
		take[p] = !s.made[p] // no layer has what was made for the run
	}
	maps.DeleteFunc(take, func(_ string, yes bool) bool { return !yes })
	for _, p := range slices.Collect(maps.Keys(take)) {
		for p = path.Dir(p); p != "."; p = path.Dir(p) {
			take[p] = true
		}
	}
	return s.describe(slices.SortedFunc(maps.Keys(take), comparePaths), is)
}

// missing are the paths that were and are not, without those below others.
func missing(was, is map[string]stamp) []string {
	var gone []string
	for p := range was {
		if _, there := is[p]; there {
			continue
		}
		if up := path.Dir(p); up == "." || is[up].dir {
			gone = append(gone, p)
		}
	}
	return gone
}

// describe reads what a layer says of each path.
func (s *stage) describe(paths []string, is map[string]stamp) ([]layer.File, error) {
	var list []layer.File
	first := map[layer.FileID]string{}
	for _, p := range paths {
		if _, there := is[p]; !there {
			list = append(list, layer.File{Entry: layer.Entry{Path: p, Whiteout: true}})
			continue
		}
		n, err := layer.ReadNode(s.dir, p)
		if err != nil {
			return nil, err
		}
		f := layer.File{Entry: n.Entry}
		f.Opaque = false
		if n.ID != (layer.FileID{}) && !f.IsDir() {
			if name, seen := first[n.ID]; seen {
				f.Hard, f.Link = true, name
			} else {
				first[n.ID] = p
			}
		}
		if f.IsRegular() {
			f.Source = filepath.Join(s.dir, p)
		}
		list = append(list, f)
	}
	return list, nil
}

// comparePaths puts each folder before what is in it.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func files(list []layer.File) iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		for _, f := range list {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// entries lists the paths in a folder.
func entries(ctx context.Context, dir string) ([]string, error) {
	var list []string
	for f, err := range layer.Upper(ctx, dir) {
		if err != nil {
			return nil, err
		}
		list = append(list, f.Path)
	}
	return list, nil
}

// add lays one more layer over the folder.
func (r *root) add(ctx context.Context, dir string) (err error) {
	staged, err := os.MkdirTemp(r.aside, "layer-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staged)) }()
	var all []layer.File
	for f, err := range layer.Upper(ctx, dir) {
		if err != nil {
			return err
		}
		at := filepath.Join(r.dir, f.Path)
		if f.Whiteout || f.Opaque || !f.IsDir() {
			if err := os.RemoveAll(at); err != nil {
				return err
			}
		}
		if f.Whiteout {
			continue
		}
		f.Opaque = false
		all = append(all, f)
	}
	if err := layer.Place(ctx, staged, files(all), layer.PlaceOptions{}); err != nil {
		return err
	}
	if err := r.move(staged, all); err != nil {
		return err
	}
	r.layers = append([]string{dir}, r.layers...)
	return nil
}

// move takes files from where they were made to their places. Folders that are there already get the attributes of the
// new ones, last, since everything else changes their times.
func (r *root) move(staged string, all []layer.File) error {
	var merged []string
	for _, f := range all {
		from, to := filepath.Join(staged, f.Path), filepath.Join(r.dir, f.Path)
		if !f.IsDir() {
			if err := os.Rename(from, to); err != nil {
				return err
			}
			continue
		}
		info, err := os.Lstat(to)
		if err == nil && !info.IsDir() {
			err = errors.Join(os.Remove(to), fs.ErrNotExist)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = os.Mkdir(to, 0o700)
		}
		if err != nil {
			return err
		}
		merged = append(merged, f.Path)
	}
	for _, p := range slices.Backward(merged) {
		if err := likeness(filepath.Join(staged, p), filepath.Join(r.dir, p)); err != nil {
			return err
		}
	}
	return nil
}

// likeness gives a folder the owner, mode and time of another.
func likeness(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fs.ErrInvalid
	}
	return errors.Join(
		os.Lchown(to, int(st.Uid), int(st.Gid)),
		os.Chmod(to, info.Mode()),
		os.Chtimes(to, info.ModTime(), info.ModTime()),
	)
}
