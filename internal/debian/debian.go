// Package debian makes a root file system out of the Debian packages that are installed on this machine: a place to run
// commands that is not the machine's own, without a registry and without a network.
//
//	db, err := debian.Read("/")                      // errs.NotFound where there are no such packages
//	packages := db.Select(debian.Tools())            // those of them that are installed, and all they need
//	err = db.Copy(ctx, packages, dir)                // their files, into an empty folder
//
// What is copied is what packages brought and every user of the machine may read: no home folders, no keys, no accounts
// but Debian's fixed ones. Package managers work in the copy. Key tells when two copies would be the same.
//
// The package reads the machine and writes one folder; it mounts nothing and runs nothing, not even the packages'
// maintainer scripts.
package debian

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/errs"
)

// database is where dpkg keeps what it knows.
const database = "var/lib/dpkg"

// maxStanza bounds one package's entry; the longest known are some tens of kilobytes.
const maxStanza = 1 << 20

// Package is an installed package.
type Package struct {
	Name, Version, Architecture string

	essential bool
	needs     [][]string // each satisfied by any one of its names
	provides  []string
	stanza    string // its entry in dpkg's status file
}

// Database is what dpkg says about a machine.
type Database struct {
	root     string
	packages []*Package
	byName   map[string]*Package // by name, and by what a package provides
}

// Tools are the packages that people expect where commands of a pipeline run, besides the essential ones.
func Tools() []string {
	return []string{
		"apt", "bash", "ca-certificates", "curl", "git", "golang-go", "jq", "make", "nodejs", "npm", "openssh-client", "procps",
		"python3", "python3-pip", "python3-venv", "unzip", "wget", "xz-utils", "zip",
	}
}

// Read reads the database of the machine whose root is given. Where there is none the error is of kind errs.NotFound.
func Read(root string) (_ *Database, err error) {
	d := &Database{root: root, byName: map[string]*Package{}}
	f, err := os.Open(filepath.Join(root, database, "status"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Mark(fmt.Errorf("read the installed packages: %w", err), errs.NotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read the installed packages: %w", err)
	}
	defer f.Close()
	if err := d.read(f); err != nil {
		return nil, fmt.Errorf("read the installed packages: %s: %w", f.Name(), err)
	}
	if len(d.packages) == 0 {
		return nil, errs.Mark(fmt.Errorf("read the installed packages: there are none in %s", f.Name()), errs.NotFound)
	}
	return d, nil
}

// read reads stanzas, which empty lines separate.
func (d *Database) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxStanza)
	var stanza strings.Builder
	for lines.Scan() {
		if line := lines.Text(); line != "" {
			if stanza.Len()+len(line) > maxStanza {
				return fmt.Errorf("an entry of more than %d bytes: %w", maxStanza, errs.Invalid)
			}
			stanza.WriteString(line + "\n")
			continue
		}
		d.add(stanza.String())
		stanza.Reset()
	}
	d.add(stanza.String())
	return lines.Err()
}

// add takes a package that is installed completely.
func (d *Database) add(stanza string) {
	fields := map[string]string{}
	name := ""
	for line := range strings.Lines(stanza) {
		line = strings.TrimSuffix(line, "\n")
		if line[0] == ' ' || line[0] == '\t' {
			fields[name] += "\n" + line
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		name = strings.ToLower(key)
		fields[name] = strings.TrimSpace(value)
	}
	if fields["package"] == "" || !strings.HasSuffix(fields["status"], " ok installed") {
		return
	}
	p := &Package{
		Name: fields["package"], Version: fields["version"], Architecture: fields["architecture"],
		essential: fields["essential"] == "yes",
		needs:     slices.Concat(relations(fields["pre-depends"]), relations(fields["depends"])),
		stanza:    stanza,
	}
	for _, alternatives := range relations(fields["provides"]) {
		p.provides = append(p.provides, alternatives...)
	}
	d.packages = append(d.packages, p)
	if _, ok := d.byName[p.Name]; !ok || !d.foreign(p) {
		d.byName[p.Name] = p
	}
}

// foreign tells a package of another architecture, which only stands in where the machine's own is missing.
func (d *Database) foreign(p *Package) bool {
	first := d.packages[0].Architecture
	return p.Architecture != "all" && p.Architecture != first
}

// relations reads "a (>= 1), b:any | c": lists of names, versions and architectures left out. What is installed fits
// together; which versions were asked for does not matter any more.
func relations(field string) [][]string {
	var all [][]string
	for one := range strings.SplitSeq(field, ",") {
		var names []string
		for alternative := range strings.SplitSeq(one, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alternative), " ")
			name, _, _ = strings.Cut(name, ":")
			name, _, _ = strings.Cut(name, "(")
			if name != "" {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			all = append(all, names)
		}
	}
	return all
}

// Select returns the essential packages, those of names that are installed, and all that they need, by name.
func (d *Database) Select(names []string) []*Package {
	provided := map[string]*Package{}
	for _, p := range d.packages {
		for _, name := range p.provides {
			if provided[name] == nil {
				provided[name] = p
			}
		}
	}
	find := func(alternatives []string) *Package {
		for _, name := range alternatives {
			if p := d.byName[name]; p != nil {
				return p
			}
		}
		for _, name := range alternatives {
			if p := provided[name]; p != nil {
				return p
			}
		}
		return nil
	}
	var todo []*Package
	for _, p := range d.packages {
		if p.essential && d.byName[p.Name] == p {
			todo = append(todo, p)
		}
	}
	for _, name := range names {
		if p := d.byName[name]; p != nil {
			todo = append(todo, p)
		}
	}
	chosen := map[*Package]bool{}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if chosen[p] {
			continue
		}
		chosen[p] = true
		for _, alternatives := range p.needs {
			if q := find(alternatives); q != nil { // one that is missing is missing on the machine too
				todo = append(todo, q)
			}
		}
	}
	var all []*Package
	for _, p := range d.packages {
		if chosen[p] {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *Package) int {
		return strings.Compare(a.Name+":"+a.Architecture, b.Name+":"+b.Architecture)
	})
	return all
}

// form is changed whenever Copy makes something else of the same packages.
const form = "2"

// Key is the same for packages whose copies are the same: a SHA-256, in hexadecimal.
func Key(packages []*Package) string {
	h := sha256.New()
	_, _ = io.WriteString(h, form+"\n")
	for _, p := range packages {
		_, _ = fmt.Fprintf(h, "%s %s %s\n", p.Name, p.Architecture, p.Version)
	}
	return hex.EncodeToString(h.Sum(nil))
}
