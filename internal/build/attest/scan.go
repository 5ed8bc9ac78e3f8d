package attest

import (
	"bufio"
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/textproto"
	"os"
	"path"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Files of a stranger's image are read up to these sizes; a larger one is not what its name says.
const (
	maxDatabase = 64 << 20
	maxPackage  = 4 << 20
)

// Scan finds the packages in an image's files: those of dpkg and apk, Go modules in programs, and installed packages of
// npm and Python. A file that is not what its name says tells of nothing; that it cannot be read at all is an error.
func Scan(files iter.Seq2[layer.File, error]) (Contents, error) {
	var c Contents
	for f, err := range files {
		if err != nil {
			return c, fmt.Errorf("scan the image: %w", err)
		}
		if !f.IsRegular() {
			continue
		}
		if err := c.file(&f); err != nil {
			return c, fmt.Errorf("scan the image: %s: %w", f.Path, err)
		}
	}
	c.tidy()
	return c, nil
}

func (c *Contents) file(f *layer.File) error {
	dir, base := path.Split(f.Path)
	switch {
	case f.Path == "etc/os-release" || f.Path == "usr/lib/os-release":
		return c.read(f, maxPackage, c.osRelease)
	case f.Path == "var/lib/dpkg/status", dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums"):
		return c.read(f, maxDatabase, c.dpkg)
	case strings.HasSuffix(f.Path, "lib/apk/db/installed"):
		return c.read(f, maxDatabase, c.apk)
	case strings.HasPrefix(f.Path, "var/lib/rpm/") || strings.HasPrefix(f.Path, "usr/lib/sysimage/rpm/"):
		if base == "rpmdb.sqlite" || base == "Packages" || base == "Packages.db" {
			c.Unread = append(c.Unread, "/"+f.Path)
		}
		return nil
	case base == "package.json" && strings.Contains(dir, "node_modules/"):
		return c.read(f, maxPackage, c.npm)
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info/"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info/"):
		return c.read(f, maxPackage, c.python)
	case f.Mode.Perm()&0o111 != 0 && f.Size > 1<<16:
		return c.program(f)
	}
	return nil
}

// read gives the content of a file to whoever knows its format.
func (c *Contents) read(f *layer.File, limit int64, parse func(path string, data []byte)) (err error) {
	if f.Size > limit {
		return errs.Hint(fmt.Errorf("%d bytes is too large for what its name says: %w", f.Size, errs.Limit), "build without --sbom")
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, limit))
	if err == nil {
		parse(f.Path, data)
	}
	return err
}

func (c *Contents) osRelease(_ string, data []byte) {
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[k] = strings.Trim(v, `"'`)
	}
	if c.Distro = fields["ID"]; c.Distro != "" && fields["VERSION_ID"] != "" {
		c.Distro += "-" + fields["VERSION_ID"]
	}
}

// paragraphs yields the fields of each block of "Name: value" lines. Lines that go on with a space are left out: no
// field that is wanted has any.
func paragraphs(data []byte) iter.Seq[map[string]string] {
	return func(yield func(map[string]string) bool) {
		fields := map[string]string{}
		sc := bufio.NewScanner(bytes.NewReader(data))
		sc.Buffer(nil, maxPackage)
		for sc.Scan() {
			line := sc.Text()
			if line == "" {
				if len(fields) > 0 && !yield(fields) {
					return
				}
				fields = map[string]string{}
				continue
			}
			if k, v, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '\t' {
				fields[k] = strings.TrimSpace(v)
			}
		}
		if len(fields) > 0 {
			yield(fields)
		}
	}
}

// dpkg reads deb-status: what is installed, and what distroless images say in a file for each package.
func (c *Contents) dpkg(file string, data []byte) {
	for f := range paragraphs(data) {
		status := f["Status"]
		if f["Package"] == "" || status != "" && !strings.HasSuffix(status, " installed") {
			continue
		}
		c.Packages = append(c.Packages, Package{Type: "deb", Name: f["Package"], Version: f["Version"], Arch: f["Architecture"], Path: file})
	}
}

// apk reads the installed database of apk (apk-installed(5)).
func (c *Contents) apk(file string, data []byte) {
	for f := range paragraphs(data) {
		if f["P"] != "" {
			c.Packages = append(c.Packages, Package{Type: "apk", Name: f["P"], Version: f["V"], Arch: f["A"], Licenses: f["L"], Path: file})
		}
	}
}

// npm reads the package.json of an installed package; one without a version belongs to a part of a package.
func (c *Contents) npm(file string, data []byte) {
	var p struct {
		Name, Version string
		License       any
	}
	if json.Unmarshal(data, &p) != nil || p.Name == "" || p.Version == "" {
		return
	}
	license, _ := p.License.(string)
	c.Packages = append(c.Packages, Package{Type: "npm", Name: p.Name, Version: p.Version, Licenses: license, Path: file})
}

// python reads the core metadata of a distribution.
func (c *Contents) python(file string, data []byte) {
	head, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(data))).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) || head.Get("Name") == "" {
		return
	}
	license := head.Get("License-Expression")
	if old := head.Get("License"); license == "" && len(old) < 100 { // some have the whole text here
		license = old
	}
	c.Packages = append(c.Packages, Package{Type: "pypi", Name: head.Get("Name"), Version: head.Get("Version"), Licenses: license, Path: file})
}

// program reads what the Go linker left in a program about its modules.
func (c *Contents) program(f *layer.File) (err error) {
	if f.Source == "" {
		return nil
	}
	r, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil || string(magic[:]) != "\x7fELF" {
		return nil // it is shorter than it was, or no program
	}
	info := goModules(r)
	if info == nil {
		return nil
	}
	c.Packages = append(c.Packages, Package{Type: "golang", Name: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go"), Path: f.Path})
	if m := info.Main; m.Path != "" && m.Version != "" && m.Version != "(devel)" {
		c.Packages = append(c.Packages, Package{Type: "golang", Name: m.Path, Version: m.Version, Path: f.Path})
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Path != "" {
			c.Packages = append(c.Packages, Package{Type: "golang", Name: m.Path, Version: m.Version, Path: f.Path})
		}
	}
	return nil
}

// goModules is nil for what is not a Go program. The standard library's readers of programs may panic on one that is
// made for it, and this one is a stranger's.
func goModules(r io.ReaderAt) (info *buildinfo.BuildInfo) {
	defer func() {
		if recover() != nil {
			info = nil
		}
	}()
	info, err := buildinfo.Read(r)
	if err != nil {
		return nil
	}
	return info
}
