package fetch

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/build/address"
	"slipway/internal/errs"
)

// Commit is what a git address means at a moment.
type Commit struct {
	// ID is the commit's.
	ID string
	// Ref is the whole name of the branch or tag, "" when the address names a commit.
	Ref string
}

// Resolve asks a repository what an address means; not at all when that names a commit. Secrets may hold GIT_AUTH_TOKEN
// or GIT_AUTH_HEADER, or either for one host: GIT_AUTH_TOKEN.HOST.
func (c *Client) Resolve(ctx context.Context, g address.Git, secrets map[string][]byte) (Commit, error) {
	if err := g.Validate(); err != nil {
		return Commit{}, err
	}
	switch {
	case address.IsCommit(g.Ref):
		return Commit{ID: g.Ref}, nil
	case g.ByCommit:
		return Commit{ID: g.Checksum, Ref: branchName(g.Ref)}, nil
	}
	var at Commit
	err := c.retry(ctx, func() (err error) {
		at, err = c.lsRemote(ctx, g, secrets)
		return err
	})
	if err != nil {
		return Commit{}, fmt.Errorf("read %s: %w", address.Redact(g.Remote), err)
	}
	return at, nil
}

// branchName is the whole name of what must be a branch when it does not say what it is.
func branchName(ref string) string {
	if ref == "" || strings.HasPrefix(ref, "refs/") {
		return ref
	}
	return "refs/heads/" + ref
}

func (c *Client) lsRemote(ctx context.Context, g address.Git, secrets map[string][]byte) (Commit, error) {
	names := []string{"HEAD"}
	if g.Ref != "" {
		names = []string{g.Ref, g.Ref + "^{}"}
	}
	git := c.git(g.Remote, secrets)
	out, err := git.output(ctx, append([]string{"ls-remote", "--symref", "--", "slipway"}, names...)...)
	if err != nil {
		return Commit{}, err
	}
	ids := map[string]string{}
	head := ""
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if branch, ok := strings.CutPrefix(id, "ref: "); ok {
			head = branch
			continue
		}
		ids[name] = id
	}
	if g.Ref == "" {
		if ids["HEAD"] == "" {
			return Commit{}, fmt.Errorf("it has no commits: %w", errs.NotFound)
		}
		ids[head] = ids["HEAD"]
		return found(g, Commit{ID: ids["HEAD"], Ref: head}, "")
	}
	// As git: a name that is whole, then a branch, then a tag; and the commit that an annotated tag points at.
	short := strings.TrimPrefix(g.Ref, "refs/")
	for _, name := range []string{"refs/" + short, "refs/heads/" + short, "refs/tags/" + short} {
		if ids[name] == "" {
			continue
		}
		if commit := ids[name+"^{}"]; commit != "" {
			return found(g, Commit{ID: commit, Ref: name}, ids[name])
		}
		return found(g, Commit{ID: ids[name], Ref: name}, "")
	}
	err = fmt.Errorf("there is no branch or tag %s: %w", g.Ref, errs.NotFound)
	return Commit{}, errs.Hint(err, "git ls-remote lists them; a commit needs its full id")
}

// found checks what was found against the address's checksum, which may be a tag's own.
func found(g address.Git, at Commit, tag string) (Commit, error) {
	if !address.IsCommit(at.ID) {
		return at, fmt.Errorf("%q is no commit: %w", at.ID, errs.Corrupt)
	}
	if !strings.HasPrefix(at.ID, g.Checksum) && (tag == "" || !strings.HasPrefix(tag, g.Checksum)) {
		return at, fmt.Errorf("expected checksum to match %s, got %s: %w", g.Checksum, at.ID, errs.Corrupt)
	}
	return at, nil
}

// CheckoutOptions say where the files go.
type CheckoutOptions struct {
	// Dir is an empty folder for the files, Scratch one for what is needed on the way, on the same file system.
	Dir, Scratch string
	// KeepGitDir leaves .git in Dir, without history. An address with a folder has none.
	KeepGitDir bool
	// Secrets are as in Resolve.
	Secrets map[string][]byte
}

// Checkout writes the files of a commit, with plain modes and one time, so that two checkouts of a commit are equal but
// for .git.
func (c *Client) Checkout(ctx context.Context, g address.Git, at Commit, opts CheckoutOptions) error {
	r := &repository{command: c.git(g.Remote, opts.Secrets), address: g, at: at, dir: filepath.Join(opts.Scratch, "repository"), work: opts.Dir}
	keep := opts.KeepGitDir && g.Dir == ""
	if keep {
		r.dir = filepath.Join(opts.Dir, gitDir)
	}
	if g.Dir != "" {
		r.work = filepath.Join(opts.Scratch, "work")
		if err := os.Mkdir(r.work, 0o700); err != nil {
			return err
		}
	}
	if err := r.checkout(ctx, c, keep); err != nil {
		return fmt.Errorf("check out %s: %w", address.Redact(g.Remote), err)
	}
	if g.Dir != "" {
		if err := moveFolder(r.work, g.Dir, opts.Dir); err != nil {
			return fmt.Errorf("folder %s of %s: %w", g.Dir, address.Redact(g.Remote), err)
		}
	}
	return nil
}

const gitDir = ".git"

// repository is one commit on its way to its files.
type repository struct {
	command
	address address.Git
	at      Commit
	dir     string // the git folder
	work    string // the files
}

func (r *repository) checkout(ctx context.Context, c *Client, keep bool) error {
	init := []string{"init", "--quiet", "--template=", "--initial-branch=master"}
	if len(r.at.ID) == 64 {
		init = append(init, "--object-format=sha256")
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	r.command = r.with("GIT_DIR="+r.dir, "GIT_WORK_TREE="+r.work).in(r.work)
	if _, err := r.output(ctx, init...); err != nil {
		return err
	}
	if err := c.retry(ctx, func() error { return r.fetch(ctx) }); err != nil {
		return err
	}
	if _, err := r.output(ctx, "checkout", "--quiet", "--detach", "--force", r.at.ID); err != nil {
		return err
	}
	if err := r.submodules(ctx); err != nil {
		return err
	}
	when, err := r.time(ctx)
	if err != nil {
		return err
	}
	if keep {
		if err := r.forget(ctx); err != nil {
			return err
		}
	}
	return settle(ctx, r.work, when, keep)
}

// fetch gets the commit: by its branch or tag, which every server allows, or by its id.
func (r *repository) fetch(ctx context.Context) error {
	if r.at.Ref != "" && !r.address.ByCommit {
		if _, err := r.output(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "-u", "--", "slipway", "+"+r.at.Ref+":"+r.at.Ref); err != nil {
			return err
		}
		if r.has(ctx) {
			return nil
		}
	}
	_, err := r.output(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--", "slipway", r.at.ID)
	if err == nil && r.has(ctx) {
		if r.at.Ref != "" {
			_, err = r.output(ctx, "update-ref", r.at.Ref, r.at.ID)
		}
		return err
	}
	// A server that gives no commit by its id: all that there is must do.
	if _, err := r.output(ctx, "fetch", "--quiet", "--force", "--tags", "--", "slipway", "+refs/heads/*:refs/remotes/origin/*"); err != nil {
		return err
	}
	if !r.has(ctx) {
		return fmt.Errorf("commit %s is not there: %w", r.at.ID, errs.NotFound)
	}
	return nil
}

// has says whether the commit has arrived.
func (r *repository) has(ctx context.Context) bool {
	_, err := r.output(ctx, "cat-file", "-e", r.at.ID+"^{commit}")
	return err == nil
}

// submodules fetches what the commit refers to in other repositories.
func (r *repository) submodules(ctx context.Context) error {
	if _, err := os.Lstat(filepath.Join(r.work, ".gitmodules")); err != nil || r.address.NoSubmodules {
		return ignoreMissing(err)
	}
	_, err := r.output(ctx, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// time is what files get: the commit's, or that of now.
func (r *repository) time(ctx context.Context) (time.Time, error) {
	if r.address.CheckoutTime {
		return time.Now(), nil
	}
	out, err := r.output(ctx, "log", "-1", "--format=%ct", r.at.ID, "--")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of commit %s: %w", r.at.ID, err)
	}
	return time.Unix(seconds, 0), nil
}

// forget leaves in .git what a clone has, and nothing of how it was fetched.
func (r *repository) forget(ctx context.Context) error {
	if _, err := r.output(ctx, "config", "remote.origin.url", withoutPassword(r.address.Remote)); err != nil {
		return err
	}
	for _, name := range []string{"FETCH_HEAD", "logs"} {
		if err := os.RemoveAll(filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func withoutPassword(remote string) string {
	u, err := url.Parse(remote)
	if err != nil || !strings.HasPrefix(u.Scheme, "http") {
		return remote
	}
	u.User = nil
	return u.String()
}

// moveFolder moves what is in a folder of from to the folder to. No symbolic link is followed on the way.
func moveFolder(from, folder, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	at := ""
	for name := range strings.SplitSeq(folder, "/") {
		at = filepath.Join(at, name)
		info, err := root.Lstat(at)
		if err != nil {
			return errs.Mark(err, errs.NotFound)
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder: %w", at, errs.Invalid)
		}
	}
	entries, err := os.ReadDir(filepath.Join(from, folder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, folder, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// settle gives files one time and the modes that git knows of, whatever the umask, and removes what says where
// submodules were fetched to.
func settle(ctx context.Context, dir string, when time.Time, keep bool) error {
	at := unix.NsecToTimespec(when.UnixNano())
	top := filepath.Join(dir, gitDir)
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case keep && path == top:
			return filepath.SkipDir
		case !keep && e.Name() == gitDir: // git itself refuses to check out such a name
			if err := os.RemoveAll(path); err != nil || !e.IsDir() { //nolint:gosec // a checkout of our own, which nobody else writes to
				return err
			}
			return filepath.SkipDir
		}
		if e.Type() != fs.ModeSymlink {
			if err := plainMode(path, e); err != nil {
				return err
			}
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "set the time of", Path: path, Err: err}
		}
		return nil
	})
}

func plainMode(path string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	if info.Mode().Perm() == mode {
		return nil
	}
	return os.Chmod(path, mode)
}

// authHeader is the header that a secret stands for, "" when there is none for the repository.
func authHeader(remote string, secrets map[string][]byte) string {
	u, err := url.Parse(remote)
	if err != nil || !strings.HasPrefix(u.Scheme, "http") {
		return ""
	}
	for _, suffix := range []string{"." + u.Host, ""} {
		if header := secrets["GIT_AUTH_HEADER"+suffix]; len(header) > 0 {
			return strings.TrimSpace(string(header))
		}
		if token := secrets["GIT_AUTH_TOKEN"+suffix]; len(token) > 0 {
			word := "x-access-token:" + strings.TrimSpace(string(token))
			return "basic " + base64.StdEncoding.EncodeToString([]byte(word))
		}
	}
	return ""
}
