package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links one path may go through, as in the kernel.
const maxLinks = 40

// Copy writes the files of packages into dir, an empty folder. All of them belong to root, none is setuid. Documentation,
// translations and C headers are left out.
func (d *Database) Copy(ctx context.Context, packages []*Package, dir string) (err error) {
	from, err := os.OpenRoot(d.root)
	if err != nil {
		return fmt.Errorf("copy packages: %w", err)
	}
	defer from.Close()
	to, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("copy packages: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	c := &copier{from: from, to: to, placed: map[string]string{"/": "/"}, names: map[file]string{}}
	for _, p := range packages {
		if err := c.packageFiles(ctx, p); err != nil {
			return fmt.Errorf("copy package %s: %w", p.Name, err)
		}
	}
	if err := c.furnish(ctx, packages); err != nil {
		return fmt.Errorf("copy packages: %w", err)
	}
	return nil
}

// copier copies paths from one root to another. A path that leads through links on the machine (/bin is usr/bin) leads
// through the same links in the copy.
type copier struct {
	from, to *os.Root
	placed   map[string]string // folders that are there, by path: where they really are
	names    map[file]string   // of files that have several, where the first one is
}

// file tells files of the machine apart.
type file struct{ device, inode uint64 }

// packageFiles copies what a package's list names.
func (c *copier) packageFiles(ctx context.Context, p *Package) error {
	for _, name := range []string{p.Name + ":" + p.Architecture, p.Name} {
		list, err := c.from.Open(path.Join(database, "info", name+".list"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer list.Close()
		lines := bufio.NewScanner(list)
		for lines.Scan() {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := c.copy(lines.Text()); err != nil {
				return err
			}
		}
		return errors.Join(lines.Err(), c.control(name))
	}
	return nil // a package without files
}

// control copies what dpkg itself needs to know about a package to change it.
func (c *copier) control(name string) error {
	for _, kind := range []string{"list", "conffiles", "preinst", "postinst", "prerm", "postrm", "triggers"} {
		if err := c.copy("/" + path.Join(database, "info", name+"."+kind)); err != nil {
			return err
		}
	}
	return nil
}

// unwanted are folders that no program here needs: documentation, translations, and headers, for there is no compiler of C.
func unwanted(name string) bool {
	for _, dir := range []string{"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian", "/usr/include", "/boot"} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

// copy copies one file, link or folder without its content. What is not there, or not for everybody to read, is left
// out: packages list files that an administrator has removed, or closed.
func (c *copier) copy(name string) error {
	name = path.Clean("/" + name)
	if name == "/" || unwanted(name) {
		return nil
	}
	dir, err := c.folder(path.Dir(name), 0)
	if err != nil || dir == "" {
		return err
	}
	real := path.Join(dir, path.Base(name))
	info, err := c.from.Lstat(local(real))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	switch {
	case err != nil:
		return err
	case info.IsDir():
		_, err = c.folder(name, 0)
		return err
	case info.Mode().Type() == fs.ModeSymlink:
		return c.link(real)
	case info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0:
		return c.regular(real, info)
	default:
		return nil
	}
}

func local(name string) string { return strings.TrimPrefix(name, "/") }

// folder makes a folder of the machine in the copy, with those it lies in, and returns where it really is. It is "" when
// the machine has none there.
func (c *copier) folder(name string, links int) (string, error) {
	if real, ok := c.placed[name]; ok {
		return real, nil
	}
	if links > maxLinks {
		return "", fmt.Errorf("%s: too many symbolic links", name)
	}
	parent, err := c.folder(path.Dir(name), links)
	if err != nil || parent == "" {
		return "", err
	}
	real := path.Join(parent, path.Base(name))
	info, err := c.from.Lstat(local(real))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := c.from.Readlink(local(real))
		if err != nil {
			return "", err
		}
		if err := c.link(real); err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(parent, target)
		}
		if real, err = c.folder(path.Clean(target), links+1); err != nil || real == "" {
			return "", err
		}
	case !info.IsDir():
		return "", nil
	default:
		mode := info.Mode().Perm()&^0o022 | 0o755
		if info.Mode()&fs.ModeSticky != 0 {
			mode = fs.ModeSticky | 0o777 // /tmp
		}
		if err := c.to.Mkdir(local(real), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		if err := c.to.Chmod(local(real), mode); err != nil {
			return "", err
		}
	}
	c.placed[name] = real
	return real, nil
}

// link copies a symbolic link as it is.
func (c *copier) link(real string) error {
	target, err := c.from.Readlink(local(real))
	if err != nil {
		return err
	}
	err = c.to.Symlink(target, local(real))
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return err
}

// regular copies a file. One that has several names keeps them: git alone is there fifty times.
func (c *copier) regular(real string, info fs.FileInfo) (err error) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		id := file{st.Dev, st.Ino}
		if first, ok := c.names[id]; ok {
			if err := c.to.Link(local(first), local(real)); !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}
		c.names[id] = real
	}
	in, err := c.from.Open(local(real))
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.OpenFile(local(real), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // two packages share it
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Chmod(info.Mode().Perm() &^ 0o022); err != nil {
		return err
	}
	return c.to.Chtimes(local(real), info.ModTime(), info.ModTime())
}

// furnish adds what maintainer scripts have made on the machine, and what a root file system needs besides packages.
func (c *copier) furnish(ctx context.Context, packages []*Package) error {
	if err := c.alternatives(); err != nil {
		return err
	}
	trees := []string{"/etc/ssl/certs", "/etc/apt"}
	if _, err := c.to.Lstat(local(inPlace)); err == nil {
		trees = append(trees, inPlace)
	}
	for _, name := range trees {
		if err := c.tree(ctx, name); err != nil {
			return err
		}
	}
	for _, dir := range []struct {
		name string
		mode fs.FileMode
	}{{"tmp", fs.ModeSticky | 0o777}, {"var/tmp", fs.ModeSticky | 0o777}, {"root", 0o700}, {database + "/updates", 0o755}, {"var/cache/apt/archives/partial", 0o755}, {"var/lib/apt/lists/partial", 0o755}} {
		if err := c.to.MkdirAll(dir.name, 0o755); err != nil {
			return err
		}
		if err := c.to.Chmod(dir.name, dir.mode); err != nil {
			return err
		}
	}
	return c.accounts(packages)
}

// alternatives copies links such as /usr/bin/awk, which no package owns, when what they lead to is in the copy.
func (c *copier) alternatives() error {
	entries, err := fs.ReadDir(c.from.FS(), path.Join(database, "alternatives"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := c.from.ReadFile(path.Join(database, "alternatives", e.Name()))
		if err != nil {
			return err
		}
		// mode, link, then a name and a link for each slave up to an empty line.
		lines := strings.Split(string(data), "\n")
		for i := 1; i < len(lines) && (i == 1 || lines[i-1] != ""); i += 2 {
			if err := c.alternative(lines[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// alternative copies a link and the one in /etc/alternatives that it leads to. The administrator may have put something
// else in its place: then there is nothing to copy.
func (c *copier) alternative(link string) error {
	if !path.IsAbs(link) || unwanted(link) {
		return nil
	}
	middle, err := c.from.Readlink(local(path.Join(c.resolve(path.Dir(link)), path.Base(link))))
	if err != nil || !strings.HasPrefix(middle, "/etc/alternatives/") {
		return nil //nolint:nilerr // see above
	}
	if _, err := c.to.Lstat(local(c.resolve(link))); err != nil {
		return nil //nolint:nilerr // what it leads to is not in the copy
	}
	return errors.Join(c.copy(link), c.copy(middle))
}

// resolve follows the links of a path of the machine, inside its root, as far as there are any.
func (c *copier) resolve(name string) string {
	todo := strings.Split(name, "/")
	real := "/"
	for links := 0; len(todo) > 0; {
		next := path.Join(real, todo[0])
		todo = todo[1:]
		target, err := c.from.Readlink(local(next))
		if err != nil || links == maxLinks {
			real = next
			continue
		}
		links++
		if path.IsAbs(target) {
			real = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return real
}

// inPlace is a program that people update over the package's files, which then fit together with those alone.
const inPlace = "/usr/lib/node_modules/npm"

// tree copies a folder with everything below it, but for settings that hold credentials: an address with a user.
func (c *copier) tree(ctx context.Context, name string) error {
	err := fs.WalkDir(c.from.FS(), local(name), func(p string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if e.Type().IsRegular() && strings.HasPrefix(p, "etc/apt/") {
			data, err := c.from.ReadFile(p)
			if err != nil || credentials(string(data)) {
				return nil //nolint:nilerr // what cannot be read is not for everybody
			}
		}
		return c.copy("/" + p)
	})
	return err
}

// credentials reports whether a text may hold a password: scheme://user:password@host, or a setting that is called so.
func credentials(text string) bool {
	for line := range strings.Lines(text) {
		_, address, found := strings.Cut(line, "://")
		host, _, _ := strings.Cut(address, "/")
		if found && strings.Contains(host, "@") || strings.Contains(strings.ToLower(line), "password") {
			return true
		}
	}
	return false
}

// accounts writes what names users, groups and packages: Debian's fixed accounts, not the machine's own.
func (c *copier) accounts(packages []*Package) error {
	for _, f := range []struct{ name, master, fallback, more string }{
		{"etc/passwd", "usr/share/base-passwd/passwd.master", "root:*:0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", "_apt:*:42:65534::/nonexistent:/usr/sbin/nologin\n"},
		{"etc/group", "usr/share/base-passwd/group.master", "root:*:0:\nnogroup:*:65534:\n", ""},
	} {
		text := f.fallback
		data, err := c.from.ReadFile(f.master)
		switch {
		case err == nil:
			text = string(data)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := c.write(f.name, strings.ReplaceAll(text, "root:*:0:0:root:/root:/bin/sh", "root:*:0:0:root:/root:/bin/bash")+f.more); err != nil {
			return err
		}
	}
	var status strings.Builder
	for _, p := range packages {
		status.WriteString(p.stanza + "\n")
	}
	if err := c.write(database+"/status", status.String()); err != nil {
		return err
	}
	return c.write(database+"/available", "")
}

// write makes a small file, in place of one that may have been copied.
func (c *copier) write(name, text string) error {
	if err := c.to.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := c.to.RemoveAll(name); err != nil {
		return err
	}
	return c.to.WriteFile(name, []byte(text), 0o644)
}
