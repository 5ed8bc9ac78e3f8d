package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/address"
	"slipway/internal/build/attest"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/origin"
	"slipway/internal/build/plan"
	"slipway/internal/build/solver"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
)

// inputs are what a build reads: its context and its Dockerfile, the same for all platforms.
type inputs struct {
	context address.Context
	// name is what the context is called from build to build: a folder's path, or an address.
	name string
	// root is the context's folder when it is the user's own; "" when it was fetched.
	root   string
	files  origin.Files
	tree   tree.Tree
	hasher tree.Sums
	file   *dockerfile.File
	ignore *dockerfile.Ignore
	// stand and contexts are the named contexts, for the plan and for the solver.
	stand    map[string]plan.Context
	contexts map[string]solver.Context
	sums     *sumBook
	layouts  []*origin.Layout
	// secrets are the values of Build.Secrets.
	secrets map[string][]byte
}

// open opens what a build reads. What was fetched stays until done is called. What could be read of a Dockerfile with a
// mistake comes with the error.
func (w *work) open(ctx context.Context, r *Build) (_ *inputs, done func() error, err error) {
	secrets, err := w.secrets(r.Secrets)
	if err != nil {
		return nil, nil, err
	}
	steps := w.steps(r.Events)
	o := origin.New(origin.Options{
		Fetch: w.solver.Fetch, Snapshots: w.snapshots, Lock: w.solver.Lock,
		Start: func(name string) origin.Step { return steps.Start(name) },
		Stdin: r.Stdin, Secrets: secrets, Getenv: w.opts.Getenv, MaxBytes: r.Limits.Disk,
	})
	in, err := openInputs(ctx, r, o)
	if err != nil {
		return in, nil, errors.Join(err, o.Close())
	}
	in.sums = &sumBook{work: w}
	if in.hasher, err = in.sums.open(in.context, in.name); err == nil {
		err = in.nameContexts(w, r, o)
	}
	if err != nil {
		return nil, nil, errors.Join(err, in.close(), o.Close())
	}
	r.steps = int(steps.last.Load())
	return in, func() error { return errors.Join(in.close(), o.Close()) }, nil
}

// openInputs opens the context and reads the Dockerfile.
func openInputs(ctx context.Context, r *Build, o *origin.Opener) (*inputs, error) {
	c, err := contextOf(r.Context)
	if err != nil {
		return nil, err
	}
	in := &inputs{context: c, name: c.Word, secrets: o.Secrets}
	if c.Kind == address.Folder {
		err = in.local(r)
	} else {
		err = in.remote(ctx, r, o)
	}
	return in, err
}

// contextOf says where a context is. A folder that is there is one, whatever its name looks like.
func contextOf(word string) (address.Context, error) {
	c, err := address.ParseContext(word)
	if err == nil && c.Kind == address.Stdin {
		return c, nil
	}
	info, staterr := os.Stat(word)
	switch {
	case staterr != nil && err == nil && c.Kind == address.Folder:
		return c, fmt.Errorf("build context: %w", errs.Mark(staterr, errs.Invalid))
	case staterr != nil:
		return c, err
	case info.IsDir():
		return address.Context{Kind: address.Folder, Word: word, Path: word}, nil
	}
	err = fmt.Errorf("build context: %s is not a folder: %w", word, errs.Invalid)
	return c, errs.Hint(err, "a tar is read from standard input: slipway build - <"+word)
}

// local is a context in a folder of the user's: read in place, without what its ignore file hides.
func (in *inputs) local(r *Build) error {
	root, err := filepath.Abs(in.context.Path)
	if err != nil {
		return err
	}
	name, data, err := dockerfileBytes(r, root)
	if err != nil {
		return err
	}
	if in.file, err = dockerfile.ParseWithArgs(cmp.Or(r.Name, name), data, r.Args); err != nil {
		return err
	}
	if in.ignore, err = readIgnore(r, name, root); err != nil {
		return err
	}
	folder, err := openFolder(root, in.ignore)
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	in.root, in.name, in.tree = folder.Root(), folder.Root(), folder
	return nil
}

func openFolder(root string, ignore *dockerfile.Ignore) (*tree.Folder, error) {
	matcher, err := newIgnoring(ignore)
	if err != nil {
		return nil, err
	}
	folder, err := tree.NewFolder(root, tree.FolderOptions{Ignore: matcher, AsRoot: true})
	return folder, errs.Mark(err, errs.Invalid)
}

// remote is a context that is fetched. As in BuildKit, an ignore file in it hides nothing: whoever made it has left out
// what does not belong in it.
func (in *inputs) remote(ctx context.Context, r *Build, o *origin.Opener) (err error) {
	if in.context.Kind == address.Stdin && r.File == "-" {
		return fmt.Errorf("standard input cannot be both the context and the Dockerfile: %w", errs.Invalid)
	}
	if in.context.Kind == address.Commit && in.context.Git.KeepGitDir == nil {
		if keep, err := strconv.ParseBool(r.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]); err == nil {
			in.context.Git.KeepGitDir = &keep
		}
	}
	if in.files, err = o.Open(ctx, in.context); err != nil {
		return err
	}
	if in.files.Dir == "" {
		return in.alone(r)
	}
	folder, err := tree.NewFolder(in.files.Dir, tree.FolderOptions{AsRoot: true})
	if err != nil {
		return err
	}
	in.tree = folder
	name, data, err := in.dockerfileIn(r, folder)
	if err != nil {
		return err
	}
	if in.file, err = dockerfile.ParseWithArgs(cmp.Or(r.Name, name), data, r.Args); err != nil {
		return err
	}
	if _, err := folder.Lstat(dockerfile.DefaultIgnoreFile); err == nil && r.Events != nil {
		r.Events(build.Event{Kind: build.Note, Time: time.Now(), Text: dockerfile.DefaultIgnoreFile + " of " + in.context.Word + " hides nothing: that is for contexts that are folders, as in BuildKit"})
	}
	return nil
}

// alone is a Dockerfile without a context.
func (in *inputs) alone(r *Build) (err error) {
	if r.File != "" {
		err := fmt.Errorf("build context %s: it is no tar, but a Dockerfile, and --file names another: %w", in.context.Word, errs.Invalid)
		return errs.Hint(err, "leave --file out")
	}
	name := in.context.Word
	if in.context.Kind == address.Stdin {
		name = stdinName
	}
	in.tree = tree.Empty{}
	in.file, err = dockerfile.ParseWithArgs(cmp.Or(r.Name, name), in.files.Alone, r.Args)
	return err
}

// dockerfileIn reads the Dockerfile of a context that was fetched: a file in it, unless its name is absolute.
func (in *inputs) dockerfileIn(r *Build, t tree.Tree) (string, []byte, error) {
	if r.File == "-" || filepath.IsAbs(r.File) {
		return dockerfileBytes(r, "")
	}
	names := dockerfileNames()
	if r.File != "" {
		names = []string{r.File}
	}
	for _, name := range names {
		data, err := readIn(t, name)
		if !errors.Is(err, errs.NotFound) {
			return name, data, err
		}
	}
	if r.File != "" {
		return "", nil, fmt.Errorf("no %s in %s: %w", r.File, in.context.Word, errs.Mark(fs.ErrNotExist, errs.Invalid))
	}
	return "", nil, noDockerfile(in.context.Word)
}

func noDockerfile(in string) error {
	err := fmt.Errorf("no Dockerfile in %s: %w", in, errs.Mark(fs.ErrNotExist, errs.Invalid))
	return errs.Hint(err, "name it with --file")
}

// readIn reads a Dockerfile in a tree. No link of the tree leads out of it.
func readIn(t tree.Tree, name string) (_ []byte, err error) {
	real, err := tree.Resolve(t, filepath.ToSlash(name), true)
	if err != nil {
		return nil, err
	}
	e, err := t.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.Mark(err, errs.NotFound)
	}
	if err != nil {
		return nil, err
	}
	if !e.Mode.IsRegular() {
		return nil, fmt.Errorf("%s is no file: %w", name, errs.Invalid)
	}
	r, err := t.Open(real)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return readDockerfile(name, r)
}

// time is that of the commit that the context was checked out from, or of what it was fetched from, in seconds since
// 1970.
func (in *inputs) time(ctx context.Context) (string, error) {
	if in.root != "" {
		return commitTime(ctx, in.root)
	}
	t, err := in.files.Time()
	if err != nil {
		return "", fmt.Errorf("source date epoch of the context: %w", err)
	}
	if t.IsZero() {
		err := fmt.Errorf("source date epoch of the context: %s does not say when it was changed: %w", in.context.Word, errs.Invalid)
		return "", errs.Hint(err, "give the seconds since 1970 instead")
	}
	return strconv.FormatInt(t.Unix(), 10), nil
}

// source is what a provenance says of the context; nil when nothing is known.
func (in *inputs) source(ctx context.Context) *attest.Source {
	switch in.context.Kind {
	case address.Folder:
		return contextSource(ctx, in.root)
	case address.Commit:
		return &attest.Source{URI: withoutUser(in.context.Git.Remote), Commit: in.files.Commit}
	case address.File, address.Object:
		return &attest.Source{URI: withoutUser(in.context.Word), Digest: in.files.Digest}
	}
	return nil
}

// dockerfile is the Dockerfile's path in the context, or its name: no path of this machine.
func (in *inputs) dockerfile() string {
	name := in.file.Name
	if in.root == "" {
		if filepath.IsAbs(name) {
			name = filepath.Base(name)
		}
		return name
	}
	if abs, err := filepath.Abs(name); err == nil {
		if rel, err := filepath.Rel(in.root, abs); err == nil && filepath.IsLocal(rel) {
			return filepath.ToSlash(rel)
		}
	}
	return filepath.Base(name)
}

// dockerfileNames are tried in order. Dockerfiles in lower case are an old habit, which BuildKit supports.
func dockerfileNames() []string { return []string{"Dockerfile", "Containerfile", "dockerfile"} }

// stdinName is what messages call a Dockerfile from standard input.
const stdinName = "<stdin>"

// readIgnore reads the ignore file of a context in a folder: the Dockerfile's own, which lies beside it, or else the
// context's.
func readIgnore(r *Build, name, root string) (*dockerfile.Ignore, error) {
	candidates := []string{filepath.Join(root, dockerfile.DefaultIgnoreFile)}
	if r.File != "-" {
		candidates = append([]string{dockerfile.IgnoreFile(name)}, candidates...)
	}
	for _, c := range candidates {
		text, err := os.ReadFile(c)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return dockerfile.ParseIgnore(c, text)
	}
	return nil, nil
}

// dockerfileBytes reads the Dockerfile from where the user says, or from a folder.
func dockerfileBytes(r *Build, root string) (string, []byte, error) {
	switch r.File {
	case "-":
		data, err := readDockerfile(stdinName, r.Stdin)
		return stdinName, data, err
	case "":
		for _, n := range dockerfileNames() {
			data, err := readFile(filepath.Join(root, n))
			if !errors.Is(err, fs.ErrNotExist) {
				return filepath.Join(r.Context, n), data, err
			}
		}
		return "", nil, noDockerfile(r.Context)
	default:
		data, err := readFile(r.File)
		if errors.Is(err, fs.ErrNotExist) {
			err = errs.Mark(err, errs.Invalid)
		}
		return r.File, data, err
	}
}

func readFile(name string) (_ []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readDockerfile(name, f)
}

// maxDockerfile bounds what is read as one.
const maxDockerfile = 16 << 20

func readDockerfile(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if len(data) > maxDockerfile {
		return nil, fmt.Errorf("%s has more than %d bytes, too many for a Dockerfile: %w", name, maxDockerfile, errs.Invalid)
	}
	return data, err
}
