package serverless

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/pipeline/expr"
)

// Fetcher fetches repositories other than the run's own.
type Fetcher interface {
	// Fetch makes dir, an empty folder of this machine, a repository that has what f names checked out. The error is of
	// kind errs.Unavailable when another try may help.
	Fetch(ctx context.Context, f Fetch, dir string) error
	// Head says in words which commit is checked out in dir.
	Head(ctx context.Context, dir string) (string, error)
}

// Fetch names a commit of a repository.
type Fetch struct {
	URL, Ref string
	// Commit is set when the other side cannot be asked for one: Ref is then the branch that has it.
	Commit      string
	User, Token string
}

// cloner is a pipeline.Source that can make a repository of its commit, and not only files.
type cloner interface {
	Clone(ctx context.Context, dir string) error
}

// checkoutTries is how often a repository that cannot be reached is tried.
const checkoutTries = 4

// checkoutPlugin brings the repository's files into the workspace.
func checkoutPlugin() *plugin {
	return &plugin{
		name:   scope + "checkout",
		inputs: []string{"ref", "branch", "commit", "token", "provider", "clone_url", "owner", "exec_dir", "execDir", "userName"}, secret: []string{"token"},
		run: checkout,
	}
}

func checkout(ctx context.Context, c *call) (map[string]any, error) {
	in := c.checkoutInputs()
	for _, other := range []string{"template", "templateUrl", "bucket"} {
		if in[other] != "" {
			return nil, errs.Mark(fmt.Errorf("checkout takes a git repository, not a %s", other), errs.Invalid)
		}
	}
	c.mask.add(in["token"])
	// In the workspace, so that the files can be moved. Its name is nobody's: no step runs meanwhile.
	name := fmt.Sprintf(".checkout-%d", c.log.step.Number)
	dir := filepath.Join(c.dir.workspace, name)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		return nil, fmt.Errorf("make the checkout's folder: %w", err)
	}
	if err := c.fetch(ctx, in, dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	head, err := c.head(ctx, dir)
	if err == nil {
		err = move(c.dir.workspace, name, in["exec_dir"])
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("check out: %w", err), os.RemoveAll(dir))
	}
	if head != "" {
		c.log.printf("HEAD is now at %s", head)
	}
	return nil, nil
}

// checkoutInputs are the step's inputs over context.data.checkout, as texts.
func (c *call) checkoutInputs() map[string]string {
	in := map[string]string{}
	of, _ := plain(c.job.Task.Data.Get("checkout")).(map[string]any)
	all := maps.Clone(of)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, c.inputs)
	for name, v := range all {
		in[name] = expr.Text(v)
	}
	if in["exec_dir"] == "" {
		in["exec_dir"] = in["execDir"]
	}
	if in["clone_url"] == "" {
		in["clone_url"] = in["remote"]
	}
	return in
}

func (c *call) head(ctx context.Context, dir string) (string, error) {
	if c.opts.Fetcher == nil {
		return "", nil
	}
	return c.opts.Fetcher.Head(ctx, dir)
}

// fetch fills dir with the run's commit, or with what the inputs name.
func (c *call) fetch(ctx context.Context, in map[string]string, dir string) error {
	own := c.opts.Git
	wanted := in["commit"]
	same := in["clone_url"] == "" || in["clone_url"] == own["cloneUrl"]
	if same && (wanted == "" && in["ref"] == "" || wanted != "" && strings.HasPrefix(own["commitId"], wanted)) {
		if source, ok := c.job.Source.(cloner); ok {
			return source.Clone(ctx, dir)
		}
		return c.job.Source.Checkout(ctx, dir)
	}
	f := Fetch{URL: in["clone_url"], Ref: in["ref"], Token: in["token"], User: user(in["provider"])}
	if f.URL == "" {
		f.URL = own["cloneUrl"]
	}
	if wanted != "" && (in["provider"] == "self-gitlab" || in["provider"] == "vpc-gitlab") {
		f.Ref, f.Commit = branch(in), wanted
	} else if f.Ref == "" {
		f.Ref = wanted
	}
	switch {
	case f.URL == "":
		return errs.Mark(errors.New("checkout has no clone_url, and the run no repository that others could fetch"), errs.Invalid)
	case c.opts.Fetcher == nil:
		return errs.Mark(errors.New("checkout can only take the run's own repository here"), errs.Invalid)
	}
	c.log.printf("fetch %s of %s", f.Ref, withoutPassword(f.URL))
	for try := 1; ; try++ {
		err := c.opts.Fetcher.Fetch(ctx, f, dir)
		if err == nil || !errors.Is(err, errs.Unavailable) || try == checkoutTries || ctx.Err() != nil {
			return err
		}
		c.log.printf("%s", err)
		c.log.printf("retry %d of %d", try, checkoutTries-1)
		if err := emptyFolder(dir); err != nil {
			return err
		}
	}
}

// branch is the branch that has a commit: the input branch, or what ref names.
func branch(in map[string]string) string {
	if in["branch"] != "" {
		return in["branch"]
	}
	ref := in["ref"]
	if _, after, ok := strings.Cut(ref, ":"); ok {
		ref = after
	}
	for _, prefix := range []string{"refs/heads/", "refs/remotes/origin/"} {
		ref = strings.TrimPrefix(ref, prefix)
	}
	return ref
}

// user is the name that a provider wants beside a token.
func user(provider string) string {
	if provider == "github" {
		return "x-access-token"
	}
	return "oauth2"
}

func withoutPassword(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.User == nil {
		return location
	}
	u.User = nil
	return u.String()
}

// move brings everything below a folder of the workspace to another: over what is there, as git reset --hard does, beside
// what git does not know. Whatever links steps have left, nothing outside the workspace is touched.
func move(workspace, from, to string) (err error) {
	root, err := os.OpenRoot(workspace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	to = path.Join(".", strings.TrimPrefix(path.Clean("/"+strings.TrimPrefix(to, Workspace+"/")), "/"))
	if err := root.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll(path.Join(to, ".git")); err != nil {
		return err
	}
	return errors.Join(merge(root, from, to), root.RemoveAll(from))
}

func merge(root *os.Root, from, to string) error {
	entries, err := fs.ReadDir(root.FS(), from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		source, target := path.Join(from, e.Name()), path.Join(to, e.Name())
		there, err := root.Lstat(target)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case e.IsDir() && there.IsDir():
			if err := merge(root, source, target); err != nil {
				return err
			}
			continue
		default:
			if err := root.RemoveAll(target); err != nil {
				return err
			}
		}
		if err := root.Rename(source, target); err != nil {
			return err
		}
	}
	return nil
}
