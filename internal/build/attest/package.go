package attest

import (
	"cmp"
	"slices"
	"strings"
)

// Package is something that was installed in an image.
type Package struct {
	Type     string // of its package URL: "deb", "apk", "golang", "npm", "pypi"
	Name     string
	Version  string
	Arch     string
	Licenses string // as the package says, in whatever form
	// Path is the file that told of it.
	Path string
}

// Contents are what Scan found.
type Contents struct {
	// Distro is ID-VERSION of the image's os-release, "debian-12"; "" when there is none.
	Distro   string
	Packages []Package // each once, sorted
	// Unread are databases of packages that are there and were not read.
	Unread []string
}

// URL is the package's own name for the world (purl-spec).
func (p *Package) URL(distro string) string {
	name, query := escapePath(p.Name), []string{}
	id, _, _ := strings.Cut(distro, "-")
	switch p.Type {
	case "deb", "apk":
		if id == "" {
			id = map[string]string{"deb": "debian", "apk": "alpine"}[p.Type]
		}
		name = escape(id) + "/" + escape(strings.ToLower(p.Name))
		if p.Arch != "" {
			query = append(query, "arch="+escape(p.Arch))
		}
		if distro != "" {
			query = append(query, "distro="+escape(distro))
		}
	case "pypi":
		name = escape(strings.ReplaceAll(strings.ToLower(p.Name), "_", "-"))
	}
	url := "pkg:" + p.Type + "/" + name
	if p.Version != "" {
		url += "@" + escape(p.Version)
	}
	if len(query) > 0 {
		url += "?" + strings.Join(query, "&")
	}
	return url
}

// escapePath escapes the elements of a path.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	return strings.Join(parts, "/")
}

// tidy sorts packages and leaves each in once: a program and its copy tell of the same modules.
func (c *Contents) tidy() {
	slices.SortFunc(c.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version),
			cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Path, b.Path))
	})
	c.Packages = slices.CompactFunc(c.Packages, func(a, b Package) bool {
		return a.Type == b.Type && a.Name == b.Name && a.Version == b.Version && a.Arch == b.Arch
	})
	slices.Sort(c.Unread)
}
