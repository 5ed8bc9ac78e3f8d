package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"slipway/internal/build/address"
	"slipway/internal/build/attest"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/origin"
	"slipway/internal/build/plan"
	"slipway/internal/build/solver"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
)

// nameContexts finds out what the names of contexts stand for. Files are opened when a build turns out to read them, and
// then once for all platforms.
func (in *inputs) nameContexts(w *work, r *Build, o *origin.Opener) error {
	in.stand, in.contexts = map[string]plan.Context{}, map[string]solver.Context{}
	for _, word := range r.Contexts {
		name, c, err := address.ParseNamed(word)
		if err != nil {
			return err
		}
		key, err := plan.ContextName(name)
		if err != nil {
			return err
		}
		if _, ok := in.stand[key]; ok {
			return fmt.Errorf("build context %s: it is named twice: %w", key, errs.Invalid)
		}
		if in.stand[key], in.contexts[key], err = in.named(w, o, name, c); err != nil {
			return fmt.Errorf("build context %s: %w", key, err)
		}
	}
	return nil
}

func (in *inputs) named(w *work, o *origin.Opener, name string, c address.Context) (plan.Context, solver.Context, error) {
	switch c.Kind {
	case address.Image:
		if c.Ref == "scratch" {
			return plan.Context{Kind: plan.FromScratch}, solver.Context{}, nil
		}
		image, err := ref.Parse(c.Ref)
		return plan.Context{Kind: plan.FromImage, Ref: image.String()}, solver.Context{}, err
	case address.Layout:
		layout, err := origin.OpenLayout(c)
		if err != nil {
			return plan.Context{}, solver.Context{}, err
		}
		in.layouts = append(in.layouts, layout)
		name, _, _ := strings.Cut(name, "::")
		called, err := ref.Parse(name)
		return plan.Context{Kind: plan.FromImage, Ref: called.String(), Held: true}, solver.Context{Bases: layout}, err
	case address.Folder:
		if info, err := os.Stat(c.Path); err != nil || !info.IsDir() {
			if err == nil {
				err = fmt.Errorf("%s is not a folder", c.Path)
			}
			return plan.Context{}, solver.Context{}, errs.Mark(err, errs.Invalid)
		}
	}
	n := &namedFiles{in: in, work: w, opener: o, address: c}
	return plan.Context{Kind: plan.FromContext}, solver.Context{Open: n.open}, nil
}

// namedFiles are the files of a named context.
type namedFiles struct {
	in      *inputs
	work    *work
	opener  *origin.Opener
	address address.Context

	mu     sync.Mutex
	opened *solver.Opened // nil: not yet
}

func (n *namedFiles) open(ctx context.Context, start func(string) origin.Step) (solver.Opened, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opened != nil {
		return *n.opened, nil
	}
	opened, err := n.read(ctx, start)
	if err == nil {
		n.opened = &opened
	}
	return opened, err
}

func (n *namedFiles) read(ctx context.Context, start func(string) origin.Step) (opened solver.Opened, err error) {
	c := n.address
	if c.Kind == address.Folder {
		return n.folder()
	}
	files, err := n.opener.Named(start).Open(ctx, c)
	if err != nil {
		return opened, err
	}
	var from attest.Dependency
	if c.Kind == address.Commit {
		from = attest.GitDependency(withoutUser(c.Git.Remote), files.Commit)
	} else {
		from = attest.FileDependency(withoutUser(c.Word), files.Digest)
	}
	opened.From = &from
	if files.Dir == "" {
		opened.Tree = n.single(ctx, files)
		return opened, nil
	}
	// Owners are the archive's: it may be a root file system.
	if opened.Tree, err = tree.NewFolder(files.Dir, tree.FolderOptions{AsRoot: c.Kind == address.Commit}); err == nil {
		opened.Sums, err = n.in.sums.open(c, c.Word)
	}
	return opened, err
}

// folder is one of the user's, without what the ignore file in it hides.
func (n *namedFiles) folder() (opened solver.Opened, err error) {
	name := filepath.Join(n.address.Path, dockerfile.DefaultIgnoreFile)
	var ignore *dockerfile.Ignore
	text, err := os.ReadFile(name)
	if err == nil {
		ignore, err = dockerfile.ParseIgnore(name, text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return opened, err
	}
	folder, err := openFolder(n.address.Path, ignore)
	if err != nil {
		return opened, err
	}
	opened.Tree = folder
	opened.Sums, err = n.in.sums.open(n.address, folder.Root())
	return opened, err
}

// singleName is what BuildKit calls a named context that is one file.
const singleName = "context"

// single is a file that was fetched and is no archive.
func (n *namedFiles) single(ctx context.Context, f origin.Files) tree.Tree {
	const mode = 0o600 // as that of a file that ADD fetches
	return tree.NewSingle(layer.Entry{Path: singleName, Mode: mode, Size: f.Size, ModTime: f.ModTime}, func() (io.ReadCloser, error) {
		return n.work.blobs.Open(ctx, f.Digest)
	})
}

// close lets go of what named contexts hold, and keeps what is known of files.
func (in *inputs) close() error {
	var all []error
	for _, l := range in.layouts {
		all = append(all, l.Close())
	}
	return errors.Join(append(all, in.sums.save())...)
}

// sumBook has what is known of contexts' files.
type sumBook struct {
	work *work
	mu   sync.Mutex
	all  map[string]*tree.Hasher
}

// open returns what is known of the files of a context, which is called the same from build to build. Of standard input
// there will be no other build.
func (b *sumBook) open(c address.Context, name string) (tree.Sums, error) {
	if c.Kind == address.Stdin {
		return tree.Plain{}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if h, ok := b.all[name]; ok {
		return h, nil
	}
	sum := sha256.Sum256([]byte(name))
	file := filepath.Join(b.work.home(sumsDir), hex.EncodeToString(sum[:16]))
	if err := b.work.used(file); err != nil {
		return nil, err
	}
	if b.all == nil {
		b.all = map[string]*tree.Hasher{}
	}
	b.all[name] = tree.OpenHasher(file, b.work.opts.Now())
	return b.all[name], nil
}

func (b *sumBook) save() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []error
	for _, h := range b.all {
		all = append(all, h.Save())
	}
	return errors.Join(all...)
}
