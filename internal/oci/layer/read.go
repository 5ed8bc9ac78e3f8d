package layer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// FileID tells files with several names apart. It is zero for a file with one name, and for directories.
type FileID struct{ Dev, Ino uint64 }

// Node is an entry of an unpacked layer.
type Node struct {
	Entry
	// ID is the same for all names of one file.
	ID FileID
}

// ReadNode returns the file at a clean relative path in dir, a directory in the form of an overlay's upper directory.
// If there is none the error is fs.ErrNotExist. The path must not lead through symbolic links.
func ReadNode(dir, path string) (Node, error) {
	w := walker{root: dir}
	abs := filepath.Join(dir, path)
	var st unix.Stat_t
	if err := unix.Lstat(abs, &st); err != nil {
		return Node{}, &os.PathError{Op: "lstat", Path: abs, Err: err}
	}
	return w.node(path, abs, &st)
}

// ReadNodes returns the files directly inside the directory at path in dir, whiteouts and sockets included, by name.
func ReadNodes(dir, path string) (_ []Node, err error) {
	w := walker{root: dir}
	abs := filepath.Join(dir, path)
	fd, err := openFile(unix.AT_FDCWD, abs, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: abs, Err: err}
	}
	defer unix.Close(fd)
	prefix := path + "/"
	if path == "." {
		prefix = ""
	}
	return w.nodes(fd, prefix, abs+"/")
}

// nodes returns the files in an open directory. prefix and abs are its path in the layer and on this machine, and end
// with a slash unless empty.
func (w *walker) nodes(fd int, prefix, abs string) ([]Node, error) {
	names, err := w.readNames(fd)
	if err != nil {
		return nil, fmt.Errorf("%s: list: %w", prefix, err)
	}
	slices.Sort(names)
	nodes := make([]Node, 0, len(names))
	var st unix.Stat_t
	for _, name := range names {
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, fmt.Errorf("%s%s: stat: %w", prefix, name, err)
		}
		n, err := w.node(prefix+name, abs+name, &st)
		if err != nil {
			return nil, fmt.Errorf("%s%s: %w", prefix, name, err)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// node describes one file.
func (w *walker) node(rel, abs string, st *unix.Stat_t) (Node, error) {
	n := Node{Entry: statEntry(rel, st)}
	if n.Whiteout {
		return n, nil
	}
	if err := w.xattrs(&n.Entry, abs); err != nil {
		return n, err
	}
	if st.Nlink > 1 && !n.IsDir() && !n.Whiteout {
		n.ID = FileID{st.Dev, st.Ino}
	}
	var err error
	if n.Mode.Type() == fs.ModeSymlink {
		n.Link, err = os.Readlink(abs)
	}
	return n, err
}
