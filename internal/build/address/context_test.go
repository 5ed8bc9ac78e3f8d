package address_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/address"
	"slipway/internal/errs"
)

func TestParseContext(t *testing.T) {
	t.Parallel()
	git := func(g address.Git) address.Context { return address.Context{Kind: address.Commit, Git: g} }
	for s, want := range map[string]address.Context{
		".":                             {Kind: address.Folder, Path: "."},
		"a b@c:d":                       {Kind: address.Folder, Path: "a b@c:d"},
		"/abs/dir":                      {Kind: address.Folder, Path: "/abs/dir"},
		"-":                             {Kind: address.Stdin},
		"https://h/x.tar.gz":            {Kind: address.File, URL: "https://h/x.tar.gz"},
		"http://h/Dockerfile?x=1":       {Kind: address.File, URL: "http://h/Dockerfile?x=1"},
		"https://h/r.git#v1:sub":        git(address.Git{Remote: "https://h/r.git", Ref: "v1", Dir: "sub"}),
		"https://h/r.git#v1:../../sub":  git(address.Git{Remote: "https://h/r.git", Ref: "v1", Dir: "sub"}),
		"https://h/r.git?branch=b":      git(address.Git{Remote: "https://h/r.git", Ref: "refs/heads/b"}),
		"git@h:r?subdir=d":              git(address.Git{Remote: "git@h:r", Dir: "d"}),
		"ssh://git@h/r#v1":              git(address.Git{Remote: "ssh://git@h/r", Ref: "v1"}),
		"github.com/moby/buildkit#v1:d": git(address.Git{Remote: "https://github.com/moby/buildkit.git", Ref: "v1", Dir: "d"}),
		"github.com/moby/buildkit.git":  git(address.Git{Remote: "https://github.com/moby/buildkit.git"}),
		"s3://bucket/a/b.tar.gz":        {Kind: address.Object, Bucket: "bucket", Key: "a/b.tar.gz"},
	} {
		got, err := address.ParseContext(s)
		if err != nil {
			t.Errorf("ParseContext(%q): %v", s, err)
		}
		want.Word = s
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseContext(%q) mismatch (-want +got):\n%s", s, diff)
		}
	}
	for _, s := range []string{
		"ftp://h/x.tar", "gs://b/k", "docker-image://x", "dir://x", "file:///x", "https:///x", "s3://bucket", "s3://bucket/", "s3://bucket/dir/", "s3://a/k", "s3://evil.example.com:80/k",
		"s3://../k", "https://h/r.git?nonsense=1", "https://h/r.git?checksum=x", "https://h/r.git#-x",
	} {
		if got, err := address.ParseContext(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseContext(%q) = %+v, %v", s, got, err)
		}
	}
	c, err := address.ParseContext("https://user:hush@h/x.tar")
	if err != nil || strings.Contains(c.Word, "hush") || !strings.Contains(c.URL, "hush") {
		t.Errorf("with a password: %+v, %v", c, err)
	}
}

func TestParseNamed(t *testing.T) {
	t.Parallel()
	type named struct {
		Name string
		C    address.Context
	}
	for s, want := range map[string]named{
		"src=../src":                      {"src", address.Context{Kind: address.Folder, Path: "../src"}},
		"busybox:1.2=docker-image://b@x":  {"busybox:1.2", address.Context{Kind: address.Image, Ref: "b@x"}},
		"x::linux/arm64=https://h/r.git":  {"x::linux/arm64", address.Context{Kind: address.Commit, Git: address.Git{Remote: "https://h/r.git"}}},
		"x=oci-layout://dir":              {"x", address.Context{Kind: address.Layout, Path: "dir"}},
		"x=oci-layout:///a/b:v1":          {"x", address.Context{Kind: address.Layout, Path: "/a/b", Tag: "v1"}},
		"x=oci-layout://./b:v1@sha256:ab": {"x", address.Context{Kind: address.Layout, Path: "./b", Tag: "v1", Digest: "sha256:ab"}},
		"x=oci-layout:///a:b/c":           {"x", address.Context{Kind: address.Layout, Path: "/a:b/c"}},
		"x=s3://bucket/k?a=b":             {"x", address.Context{Kind: address.Object, Bucket: "bucket", Key: "k?a=b"}},
	} {
		name, c, err := address.ParseNamed(s)
		if err != nil {
			t.Errorf("ParseNamed(%q): %v", s, err)
		}
		_, want.C.Word, _ = strings.Cut(s, "=")
		if diff := cmp.Diff(want, named{name, c}); diff != "" {
			t.Errorf("ParseNamed(%q) mismatch (-want +got):\n%s", s, diff)
		}
	}
	for _, s := range []string{"", "x", "=x", "x=", "x=-", "x=docker-image://", "x=oci-layout://", "x=oci-layout://@sha256:x", "x=gs://b/k", "x=oci-archive://y"} {
		if name, got, err := address.ParseNamed(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseNamed(%q) = %q, %+v, %v", s, name, got, err)
		}
	}
}

// Whatever an address is, no password of it is in what messages call it, and a folder of a repository is inside it.
func FuzzParseNamed(f *testing.F) {
	for _, s := range []string{"x=https://u:hush@h/r.git#v:../..", "x=oci-layout://a:b@c", "x=s3://bucket/../k", "x=git@h:p#a:/../b", "x=github.com/a#b:c", "x=docker-image://a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, c, err := address.ParseNamed(s)
		if err != nil {
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("ParseNamed(%q): %v is not invalid", s, err)
			}
			return
		}
		for name := range strings.SplitSeq(c.Git.Dir, "/") {
			if name == ".." || strings.HasPrefix(c.Git.Dir, "/") {
				t.Errorf("ParseNamed(%q): the folder is %q", s, c.Git.Dir)
			}
		}
		if strings.Contains(c.Bucket, "/") || c.Kind == "" {
			t.Errorf("ParseNamed(%q) = %+v", s, c)
		}
	})
}
