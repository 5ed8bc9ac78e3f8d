package serve

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// files is the registry's folder. Names are opened inside it by the kernel (os.Root), whatever a request asks for.
type files struct {
	root *os.Root
	sync bool
}

const scratch = "tmp"

// lockFolder keeps a second process from the folder; the kernel lets go of it when this one ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(path.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w: another process serves this folder", errs.Conflict)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func openFiles(dir string, sync bool) (*files, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	// What lies in scratch was never given its name: its writer was killed.
	err = root.RemoveAll(scratch)
	for _, name := range []string{scratch, "blobs", "repositories"} {
		err = errors.Join(err, root.MkdirAll(name, 0o755))
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &files{root: root, sync: sync}, nil
}

func (f *files) close() error { return f.root.Close() }

// write makes name hold data, whole or not at all.
func (f *files) write(name string, data []byte) error {
	temp := path.Join(scratch, rand.Text())
	file, err := f.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil && f.sync {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = f.rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, f.remove(temp))
	}
	return nil
}

// rename moves a file to its final name, making folders as needed.
func (f *files) rename(from, to string) error {
	err := f.root.Rename(from, to)
	if missing(err) {
		if err := f.mkdir(path.Dir(to)); err != nil {
			return err
		}
		err = f.root.Rename(from, to)
	}
	if err == nil && f.sync {
		err = f.syncDir(path.Dir(to))
	}
	return err
}

// mkdir makes a folder with its parents.
func (f *files) mkdir(name string) error {
	err := f.root.MkdirAll(name, 0o755)
	for dir := path.Dir(name); err == nil && f.sync; dir = path.Dir(dir) {
		err = f.syncDir(dir)
		if dir == "." {
			break
		}
	}
	return err
}

func (f *files) syncDir(name string) error {
	dir, err := f.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// create makes a new file, with its folders.
func (f *files) create(name string) (*os.File, error) {
	const flags = os.O_CREATE | os.O_EXCL | os.O_RDWR
	file, err := f.root.OpenFile(name, flags, 0o644)
	if missing(err) {
		if err := f.mkdir(path.Dir(name)); err != nil {
			return nil, err
		}
		file, err = f.root.OpenFile(name, flags, 0o644)
	}
	return file, err
}

// mark makes an empty file, the way links say that a repository has a blob. Its time says when somebody last cared.
func (f *files) mark(name string) error {
	file, err := f.create(name)
	if errors.Is(err, fs.ErrExist) {
		now := time.Now()
		return f.root.Chtimes(name, now, now)
	}
	if err != nil {
		return err
	}
	err = file.Close()
	if err == nil && f.sync {
		err = f.syncDir(path.Dir(name))
	}
	return err
}

func (f *files) exists(name string) (bool, error) {
	_, err := f.root.Stat(name)
	if missing(err) {
		return false, nil
	}
	return err == nil, err
}

// remove deletes a file; one that is gone already is as good.
func (f *files) remove(name string) error {
	if err := f.root.Remove(name); !missing(err) {
		return err
	}
	return nil
}

// list returns the names in a folder, sorted; none when there is no folder.
func (f *files) list(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.root.FS(), name)
	if missing(err) {
		return nil, nil
	}
	return entries, err
}

func (f *files) openUpload(key uploadKey) (*os.File, error) {
	return f.root.OpenFile(key.path(), os.O_WRONLY, 0)
}

// walk visits the files right under one special folder, such as "_uploads", of every repository.
func (f *files) walk(folder string, visit func(repository string, entry fs.DirEntry) error) error {
	return f.repositories(func(repository string) error {
		entries, err := f.list(repositoryPath(repository, folder))
		for _, entry := range entries {
			err = errors.Join(err, visit(repository, entry))
		}
		return err
	})
}

// repositories visits every repository by name, in lexical order of its components.
func (f *files) repositories(visit func(repository string) error) error {
	const top = "repositories"
	return fs.WalkDir(f.root.FS(), top, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case missing(err):
			return nil
		case err != nil:
			return err
		case !entry.IsDir() || name == top:
			return nil
		case strings.HasPrefix(entry.Name(), "_"):
			return fs.SkipDir
		}
		return visit(strings.TrimPrefix(name, top+"/"))
	})
}

func blobPath(d oci.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func repositoryPath(repository string, elem ...string) string {
	return path.Join(append([]string{"repositories", repository}, elem...)...)
}

func digestPath(repository, folder string, d oci.Digest) string {
	return repositoryPath(repository, folder, d.Algorithm().String(), d.Encoded())
}

func linkPath(repository string, d oci.Digest) string { return digestPath(repository, "_blobs", d) }

func manifestPath(repository string, d oci.Digest) string {
	return digestPath(repository, "_manifests", d)
}

func tagPath(repository, tag string) string { return repositoryPath(repository, "_tags", tag) }

func referrersPath(repository string, subject oci.Digest) string {
	return digestPath(repository, "_referrers", subject)
}
