package address

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"slipway/internal/errs"
)

// Kind says what a build context is.
type Kind string

// Kinds of context. The last two hold an image and no files, and have a name.
const (
	Folder Kind = "folder" // Path
	Stdin  Kind = "stdin"
	Commit Kind = "commit" // Git
	File   Kind = "file"   // URL: a tar, or a Dockerfile alone
	Object Kind = "object" // Bucket and Key of an object store, which hold what a File does
	Image  Kind = "image"  // Ref
	Layout Kind = "layout" // Path of an OCI layout, Tag and Digest of the image in it
)

// Context is where the files of a build are, or the image that a name stands for.
type Context struct {
	Kind Kind
	// Word is the address as it was written, without its password.
	Word        string
	Path        string
	Git         Git
	URL         string
	Bucket, Key string
	Ref         string
	// Tag and Digest are "" when the address does not say.
	Tag, Digest string
}

// ParseContext reads the address of a build context. What looks like no other kind is a folder, whether it exists or
// not.
func ParseContext(s string) (Context, error) {
	c := Context{Word: Redact(s)}
	if s == "-" {
		c.Kind = Stdin
		return c, nil
	}
	if strings.HasPrefix(s, "github.com/") { // as docker build takes it, though for a context only
		s = "https://" + withGit(s)
	}
	g, isGit, err := ParseGit(s)
	switch {
	case err != nil:
		return Context{}, fmt.Errorf("build context: %w", err)
	case isGit:
		c.Kind, c.Git = Commit, g
		return c, g.Validate()
	}
	kind, rest, ok := strings.Cut(s, "://")
	if !ok || strings.ContainsAny(kind, "/ ") {
		c.Kind, c.Path = Folder, s
		return c, nil
	}
	switch strings.ToLower(kind) {
	case "http", "https":
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return Context{}, fmt.Errorf("build context %s: not a URL: %w", c.Word, errs.Invalid)
		}
		c.Kind, c.URL = File, s
		return c, nil
	case "s3":
		return c.object(rest)
	}
	err = fmt.Errorf("build context %s: slipway reads no %s:// addresses: %w", c.Word, kind, errs.Invalid)
	return Context{}, errs.Hint(err, "name a folder, a git repository, the http(s) URL or s3:// address of a tar, or - for a tar on standard input")
}

// withGit puts the .git that ParseGit wants at the end of a repository's path.
func withGit(s string) string {
	end := strings.IndexAny(s, "#?")
	if end < 0 {
		end = len(s)
	}
	repository := strings.TrimSuffix(s[:end], "/")
	if !strings.HasSuffix(repository, ".git") {
		repository += ".git"
	}
	return repository + s[end:]
}

// object reads BUCKET/KEY.
func (c Context) object(s string) (Context, error) {
	bucket, key, _ := strings.Cut(s, "/")
	if !bucketName(bucket) || key == "" || strings.HasSuffix(key, "/") {
		err := fmt.Errorf("build context %s: want s3://BUCKET/KEY: %w", c.Word, errs.Invalid)
		return Context{}, errs.Hint(err, "the key is that of a tar, compressed or not: s3://bucket/context.tar.gz")
	}
	c.Kind, c.Bucket, c.Key = Object, bucket, key
	return c, nil
}

// bucketName says whether a bucket may be called s: its name becomes a part of a host's name or of a path.
func bucketName(s string) bool {
	return len(s) >= 3 && len(s) <= 63 && letterOrDigit(rune(s[0])) && !strings.Contains(s, "..") &&
		!strings.ContainsFunc(s, func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune("-._", r) })
}

// ParseNamed reads NAME=ADDRESS, a named build context. Besides the addresses of contexts there are those of images:
// docker-image://REF and oci-layout://DIR[:TAG][@DIGEST].
func ParseNamed(s string) (name string, c Context, err error) {
	name, word, ok := strings.Cut(s, "=")
	if !ok || name == "" || word == "" {
		return "", Context{}, fmt.Errorf("build context %q: want NAME=ADDRESS: %w", Redact(s), errs.Invalid)
	}
	switch kind, rest, _ := strings.Cut(word, "://"); kind {
	case "docker-image":
		if rest == "" {
			return "", Context{}, fmt.Errorf("build context %s: want docker-image://REF: %w", name, errs.Invalid)
		}
		return name, Context{Kind: Image, Word: word, Ref: rest}, nil
	case "oci-layout":
		c, err := layout(rest)
		if err != nil {
			err = fmt.Errorf("build context %s: %w", name, err)
		}
		c.Word = word
		return name, c, err
	}
	if c, err = ParseContext(word); err != nil {
		return "", Context{}, fmt.Errorf("%s: %w", name, err)
	}
	if c.Kind == Stdin {
		return "", Context{}, fmt.Errorf("build context %s: only the main context can be standard input: %w", name, errs.Invalid)
	}
	return name, c, nil
}

// layout reads DIR[:TAG][@DIGEST].
func layout(s string) (Context, error) {
	c := Context{Kind: Layout}
	c.Path, c.Digest, _ = strings.Cut(s, "@")
	if dir, tag, ok := strings.Cut(path.Base(c.Path), ":"); ok { // a colon before the last slash is a folder's
		c.Path, c.Tag = strings.TrimSuffix(c.Path, path.Base(c.Path))+dir, tag
	}
	if c.Path == "" {
		return Context{}, fmt.Errorf("oci-layout://%s: want oci-layout://DIR[:TAG][@DIGEST]: %w", s, errs.Invalid)
	}
	return c, nil
}
