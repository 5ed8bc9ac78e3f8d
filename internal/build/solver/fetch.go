package solver

import (
	"context"
	"fmt"
	"io"
	"path"
	"strconv"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/build/origin"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
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
	f, err := b.Fetch.File(ctx, fetch.FileRequest{URL: url, Checksum: checksum, Secrets: b.req.Secrets, Progress: ev.Progress})
	text := ""
	if err == nil {
		text = f.Digest.String()
	}
	ev.End(text, err)
	return &f, err
}

// resolveGit finds the commit that an address means.
func (b *builder) resolveGit(ctx context.Context, g *address.Git) (fetch.Commit, error) {
	ev := b.events.start("resolve " + address.Redact(g.Remote))
	at, err := b.Fetch.Resolve(ctx, *g, b.req.Secrets)
	ev.End(at.ID, err)
	return at, err
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
			key += origin.CommitKey(r.Git, f.commit, r.KeepGitDir)
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
	dir, err := b.origin.Commit(ctx, r.Git, b.fetched[r].commit, r.KeepGitDir)
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
