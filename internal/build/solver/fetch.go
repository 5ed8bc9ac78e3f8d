package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
)

// fetched is what became known of a source elsewhere before the operation's key could be taken.
type fetched struct {
	file   *fetch.File // nil for a file with a checksum, which is not asked for before it is needed
	commit fetch.Commit
}

// resolveRemotes finds out what the build's remote sources are now, all at once.
func (b *builder) resolveRemotes(ctx context.Context) error {
	b.fetched = map[*plan.Remote]*fetched{}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range b.graph.Stages {
		for _, st := range s.Steps {
			op, ok := st.Op.(*plan.Copy)
			if !ok {
				continue
			}
			for i := range op.Remotes {
				r := &op.Remotes[i]
				f := &fetched{}
				b.fetched[r] = f
				g.Go(func() error { return b.at(st, b.resolveRemote(ctx, r, f)) })
			}
		}
	}
	return g.Wait()
}

func (b *builder) resolveRemote(ctx context.Context, r *plan.Remote, f *fetched) (err error) {
	switch {
	case r.Git == nil && r.Checksum != "":
		return nil
	case r.Git == nil:
		f.file, err = b.fetchFile(ctx, r.URL, "")
		return err
	}
	f.commit, err = b.resolveGit(ctx, r.Git)
	return err
}

// fetchFile brings a file into the blob store.
func (b *builder) fetchFile(ctx context.Context, url string, checksum oci.Digest) (*fetch.File, error) {
	ev := b.events.start("fetch " + address.Redact(url))
	f, err := b.Fetch.File(ctx, fetch.FileRequest{URL: url, Checksum: checksum, Secrets: b.req.Secrets, Progress: ev.progress})
	text := ""
	if err == nil {
		text = f.Digest.String()
	}
	ev.end(text, err)
	return &f, err
}

// resolveGit finds the commit that an address means.
func (b *builder) resolveGit(ctx context.Context, g *address.Git) (fetch.Commit, error) {
	ev := b.events.start("resolve " + address.Redact(g.Remote))
	at, err := b.Fetch.Resolve(ctx, *g, b.req.Secrets)
	ev.end(at.ID, err)
	return at, err
}

// gitKey stands for the files of a commit.
func gitKey(g *address.Git, at fetch.Commit, keepGitDir bool) string {
	key := "git " + at.ID + ":" + g.Dir
	if keepGitDir {
		key += " .git " + at.Ref
	}
	if g.NoSubmodules {
		key += " without submodules"
	}
	if g.CheckoutTime {
		key += " time of checkout"
	}
	return key
}

// fetchedKeys stand for what an ADD fetches, in order. Where it is fetched from is not part of them.
func (b *builder) fetchedKeys(op *plan.Copy) []string {
	var keys []string
	for i := range op.Remotes {
		r := &op.Remotes[i]
		f := b.fetched[r]
		key := strconv.Itoa(r.At) + " "
		switch {
		case r.Git != nil:
			key += gitKey(r.Git, f.commit, r.KeepGitDir)
		case f.file != nil:
			key += fmt.Sprintf("file %s %s %d", r.Name, f.file.Digest, f.file.ModTime.Unix())
		default:
			key += fmt.Sprintf("file %s %s", r.Name, r.Checksum)
		}
		if r.Extract {
			key += " extract"
		}
		keys = append(keys, key)
	}
	return keys
}

// addRemotes copies the remote sources that come right before a local one.
func (b *builder) addRemotes(ctx context.Context, c *tree.Copy, op *plan.Copy, before int, dest string) error {
	for i := range op.Remotes {
		r := &op.Remotes[i]
		if r.At != before {
			continue
		}
		var err error
		if r.Git != nil {
			err = b.addGit(ctx, c, op, r, dest)
		} else {
			err = b.addFile(ctx, c, r, dest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// httpMode is what BuildKit gives a file that says nothing of its mode.
const httpMode = 0o600

func (b *builder) addFile(ctx context.Context, c *tree.Copy, r *plan.Remote, dest string) error {
	f := b.fetched[r].file
	if f == nil {
		var err error
		if f, err = b.fetchFile(ctx, r.URL, r.Checksum); err != nil {
			return err
		}
	}
	src := tree.NewSingle(layer.Entry{Path: r.Name, Mode: httpMode, Size: f.Size, ModTime: f.ModTime}, func() (io.ReadCloser, error) {
		return b.Blobs.Open(b.group.ctx, f.Digest)
	})
	if r.Extract {
		if done, err := b.extract(ctx, c, src, r.Name, dest); done || err != nil {
			return err
		}
	}
	return c.Add(src, r.Name, dest, nil)
}

func (b *builder) addGit(ctx context.Context, c *tree.Copy, op *plan.Copy, r *plan.Remote, dest string) error {
	dir, err := b.checkout(ctx, r.Git, b.fetched[r].commit, r.KeepGitDir)
	if err != nil {
		return err
	}
	src, err := tree.NewFolder(dir, tree.FolderOptions{AsRoot: true})
	if err != nil {
		return err
	}
	_, filter, err := tree.Source{Pattern: "/", Exclude: op.Exclude}.Find(src)
	if err != nil {
		return err
	}
	return c.Add(src, "/", path.Clean(dest), filter)
}

// checkout returns a folder with the files of a commit, which is kept for other builds.
func (b *builder) checkout(ctx context.Context, g *address.Git, at fetch.Commit, keepGitDir bool) (_ string, err error) {
	key := digest.FromString("checkout " + gitKey(g, at, keepGitDir))
	unlock, err := b.Lock(ctx, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if id, err := b.findFolder(ctx, key); err == nil {
		return b.Snapshots.Dir(id), nil
	} else if !errors.Is(err, errs.NotFound) {
		return "", err
	}
	ev := b.events.start("check out " + address.Redact(g.Remote))
	defer func() { ev.end(at.ID, err) }()
	draft, err := b.begin(ctx)
	if err != nil {
		return "", err
	}
	scratch, err := b.begin(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, scratch.Discard()) }()
	opts := fetch.CheckoutOptions{Dir: draft.Dir(), Scratch: scratch.Dir(), KeepGitDir: keepGitDir, Secrets: b.req.Secrets}
	if err := b.Fetch.Checkout(ctx, *g, at, opts); err != nil {
		return "", err
	}
	return draft.Dir(), draft.Publish(ctx, key)
}
