package plan

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"slipway/internal/build/address"
	"slipway/internal/build/dockerfile"
)

// transfer is what COPY and ADD have in common.
type transfer struct {
	name    string // "COPY" or "ADD"
	code    string
	paths   instructions.SourcesAndDest
	from    Source
	chown   string
	chmod   string
	exclude []string
	unpack  *bool
	git     *bool // --keep-git-dir
	sum     string
	parents bool
	link    bool
}

func (s *stage) copyFrom(c command, cmd *instructions.CopyCommand, lint *linter.Linter) error {
	t := transfer{
		name: "COPY", code: cmd.String(), paths: cmd.SourcesAndDest, from: Source{Kind: FromContext},
		chown: cmd.Chown, chmod: cmd.Chmod, exclude: cmd.ExcludePatterns, parents: cmd.Parents, link: cmd.Link,
	}
	if len(c.from) > 0 {
		if !c.from[0].planned() {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", cmd.From, s.name)
		}
		t.from = c.from[0].resolved()
	}
	return s.transfer(c, t, lint)
}

func (s *stage) add(c command, cmd *instructions.AddCommand, lint *linter.Linter) error {
	return s.transfer(c, transfer{
		name: "ADD", code: cmd.String(), paths: cmd.SourcesAndDest, from: Source{Kind: FromContext},
		chown: cmd.Chown, chmod: cmd.Chmod, exclude: cmd.ExcludePatterns, link: cmd.Link,
		unpack: cmd.Unpack, git: cmd.KeepGitDir, sum: cmd.Checksum,
	}, lint)
}

func (s *stage) transfer(c command, t transfer, lint *linter.Linter) error {
	if err := t.check(); err != nil {
		return err
	}
	op := &Copy{
		From: t.from, Chown: t.chown, Chmod: t.chmod, Exclude: t.exclude, Extract: t.name == "ADD" && (t.unpack == nil || *t.unpack),
		Link: t.link && t.chmod == "", // as BuildKit, which cannot do both at once
	}
	op.Dest, op.DestIsDir = s.destination(t.paths.DestPath)
	for _, src := range t.paths.SourcePaths {
		remote, err := t.remote(src)
		if err != nil {
			return s.failAt(c, src, err)
		}
		if remote != nil {
			remote.At = len(op.Sources)
			op.Remotes = append(op.Remotes, *remote)
			continue
		}
		if t.from.Kind == FromContext && t.from.Context == "" {
			s.lintIgnored(c, t.name, src, lint)
		}
		if t.parents {
			op.Parents = append(op.Parents, parentSource(src))
		} else {
			op.Sources = append(op.Sources, path.Join("/", src))
		}
	}
	for _, f := range t.paths.SourceContents {
		if strings.Contains(f.Path, "/") {
			return fmt.Errorf("heredoc %q: its name becomes a file's, which cannot contain a slash", f.Path)
		}
		op.Inline = append(op.Inline, InlineFile{Name: f.Path, Data: f.Data, Mode: 0o644})
	}
	s.step(c, op, s.sourceText(t.code, s.lex), t.history())
	return nil
}

func (t *transfer) check() error {
	if err := checkChmod(t.chmod); err != nil {
		return err
	}
	if t.link && !numeric(t.chown) {
		return fmt.Errorf("--chown=%s: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead", t.chown)
	}
	return nil
}

// numeric says whether an owner needs no /etc/passwd: numbers, or root.
func numeric(chown string) bool {
	for id := range strings.SplitSeq(chown, ":") {
		if _, err := strconv.ParseInt(id, 10, 32); err != nil && id != "" && id != "root" {
			return false
		}
	}
	return true
}

// history is what BuildKit writes about a COPY or ADD: not all flags.
func (t *transfer) history() string {
	words := []string{t.name}
	if t.parents {
		words = append(words, "--parents")
	}
	if t.chown != "" {
		words = append(words, "--chown="+t.chown)
	}
	if t.chmod != "" {
		words = append(words, "--chmod="+t.chmod)
	}
	for _, src := range t.paths.SourcePaths {
		words = append(words, address.Redact(src)) // unlike BuildKit, which leaves passwords in the image
	}
	for _, f := range t.paths.SourceContents {
		words = append(words, "<<"+f.Path)
	}
	return strings.Join(append(words, t.paths.DestPath), " ")
}

// parentSource splits a source of COPY --parents at its pivot, "/./", before which folders are not kept.
func parentSource(src string) Parent {
	dir, pattern, pivot := strings.Cut(src, "/./")
	if !pivot {
		dir, pattern = "/", src
	}
	p := Parent{Dir: path.Join("/", dir), Pattern: strings.TrimPrefix(path.Join("/", pattern), "/")}
	p.Required = !hasWildcards(p.Dir) && !hasWildcards(p.Pattern)
	return p
}

// hasWildcards says whether a pattern has an unescaped *, ? or [.
func hasWildcards(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// failAt places an error at a word of an instruction.
func (s *stage) failAt(c command, word string, err error) error {
	line, col := s.file.Find(c.Location(), word)
	return dockerfile.Errors{{File: s.file.Name, Line: line, Col: col, Msg: err.Error(), Source: s.file.Excerpt(line, col)}}
}

// destination resolves a destination against the working directory. One that ends in a slash or a dot is a folder.
func (s *stage) destination(p string) (dest string, isDir bool) {
	isDir = p == "" || p == "." || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	if !path.IsAbs(p) {
		p = path.Join("/", s.dir, p)
	}
	return path.Clean(p), isDir
}

// checkChmod accepts octal digits up to 7777 and what chmod(1) calls symbolic.
func checkChmod(s string) error {
	if s == "" {
		return nil
	}
	notOctal := fmt.Errorf("invalid chmod parameter: '%v'. it should be octal string and between 0 and 07777", s)
	if n, err := strconv.ParseUint(s, 8, 32); err == nil {
		if n > 0o7777 {
			return notOctal
		}
		return nil
	}
	if _, err := mode.ParseWithUmask(s, 0); err != nil {
		if _, ok := errors.AsType[*strconv.NumError](err); ok {
			return notOctal
		}
		return fmt.Errorf("invalid chmod parameter: '%v': %w", s, err)
	}
	return nil
}

// remote is a source that is fetched; nil for any other.
func (t *transfer) remote(src string) (*Remote, error) {
	git, isGit, err := address.ParseGit(src)
	isHTTP := address.IsHTTP(src)
	switch {
	case err != nil:
		return nil, err
	case !isGit && !isHTTP:
		if t.sum != "" {
			return nil, errors.New("checksum requires HTTP(S) or Git sources")
		}
		return nil, nil
	case t.name == "COPY":
		return nil, errors.New("source can't be a URL or a git ref for COPY")
	case t.sum != "" && len(t.paths.SourcePaths) != 1:
		return nil, errors.New("checksum can't be specified for multiple sources")
	case isHTTP:
		r := &Remote{URL: src, Name: address.FileName(src), Extract: t.unpack != nil && *t.unpack}
		if t.sum != "" {
			r.Checksum, err = digest.Parse(t.sum)
		}
		return r, err
	}
	keep := cmp.Or(git.KeepGitDir, t.git)
	if t.git != nil && *t.git != *keep {
		return nil, errors.New("inconsistent keep-git-dir configuration")
	}
	switch {
	case git.Checksum == "":
		git.Checksum = t.sum
	case t.sum != "" && t.sum != git.Checksum:
		return nil, fmt.Errorf("checksum mismatch %q != %q", t.sum, git.Checksum)
	}
	git.KeepGitDir = nil
	return &Remote{Git: &git, KeepGitDir: keep != nil && *keep}, git.Validate()
}
