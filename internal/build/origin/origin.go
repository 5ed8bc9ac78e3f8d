// Package origin brings the files of build contexts to this machine: commits of git repositories, and archives from
// standard input, HTTP servers and object stores. What it unpacked it keeps by content, so that the next build that
// finds the same commit, or is told by the server that nothing changed, has its files at once.
//
//	o := origin.New(origin.Options{…})
//	defer o.Close()
//	files, err := o.Open(ctx, context)     // files.Dir has them, or files.Alone is a Dockerfile without a context
//
// A Layout is the image that a folder in the form of an OCI image layout holds.
//
// Archives and repositories are strangers': nothing of them is made or read outside their folder, whatever their names
// and links say, and both their content and their number of files are bounded.
package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/snapshot"
)

// Step hears how something goes on that takes time.
type Step interface {
	Progress(done, total int64)
	End(text string, err error)
}

// Options are what an Opener works with.
type Options struct {
	Fetch     *fetch.Client
	Snapshots snapshot.Snapshotter
	// Lock keeps others from working on the same content until unlock is called.
	Lock func(ctx context.Context, d oci.Digest) (unlock func(), err error)
	// Begin starts a draft that its owner discards. Default: one of Snapshots, which Close discards.
	Begin func(ctx context.Context) (snapshot.Draft, error)
	// Start begins a step. It is called by several goroutines at once.
	Start func(name string) Step
	// Stdin is what a context on standard input is read from.
	Stdin io.Reader
	// Secrets may hold tokens for servers: see fetch.
	Secrets map[string][]byte
	// Getenv reads the environment, which says where object stores are and who asks them.
	Getenv func(string) string
	// MaxBytes is the most that a context may hold, packed or unpacked; beyond it the error is of kind errs.Limit.
	// Default: more than any context holds.
	MaxBytes int64
}

// Opener opens contexts for one build. Its methods may be called at once.
type Opener struct {
	Options
	*held
	named bool
}

// held is what keeps files from going away.
type held struct {
	mu     sync.Mutex
	drafts []snapshot.Draft
	holds  []func()
}

// New returns an opener, to be closed when the files are no longer read.
func New(opts Options) *Opener { return &Opener{Options: opts, held: &held{}} }

// Named returns an opener of named contexts, which Close of the first one closes too: it tells start of its steps, and
// takes a file that is no archive for a context of one file.
func (o *Opener) Named(start func(name string) Step) *Opener {
	other := *o
	other.Start, other.named = start, true
	return &other
}

// Close lets go of all files.
func (h *held) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []error
	for _, d := range h.drafts {
		all = append(all, d.Discard()) // which keeps what was published
	}
	for _, release := range h.holds {
		release()
	}
	h.drafts, h.holds = nil, nil
	return errors.Join(all...)
}

// Files are what the address of a context turned out to hold.
type Files struct {
	// Dir is a folder with the files; "" when there is a single file that is no archive.
	Dir string
	// Alone is that file's content.
	Alone []byte
	// Commit is the id of a repository's commit.
	Commit string
	// Digest and Size are those of what was fetched, which is a blob; "" for standard input and commits.
	Digest oci.Digest
	Size   int64
	// ModTime is when the content was last changed, as the server says. Default: it does not say.
	ModTime time.Time
}

// Open brings a context here. It does not know of folders, nor of images.
func (o *Opener) Open(ctx context.Context, c address.Context) (f Files, err error) {
	switch c.Kind {
	case address.Stdin:
		f, err = o.stdin(ctx)
	case address.Commit:
		f, err = o.repository(ctx, c)
	case address.File:
		f, err = o.file(ctx, c, fetch.FileRequest{URL: c.URL, Secrets: o.Secrets})
	case address.Object:
		f, err = o.object(ctx, c)
	default:
		err = fmt.Errorf("[bug] %s is no place to fetch files from: %w", c.Kind, errs.Invalid)
	}
	if err != nil {
		return Files{}, fmt.Errorf("build context %s: %w", c.Word, err)
	}
	return f, nil
}

// Time is when the content was last changed: what the server says, else the time of the newest file. It is zero when
// there are no files.
func (f *Files) Time() (time.Time, error) {
	newest := f.ModTime
	if !newest.IsZero() || f.Dir == "" {
		return newest, nil
	}
	err := filepath.WalkDir(f.Dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return err
	})
	return newest, err
}

func (o *Opener) repository(ctx context.Context, c address.Context) (Files, error) {
	st := o.Start("resolve " + c.Word)
	at, err := o.Fetch.Resolve(ctx, c.Git, o.Secrets)
	st.End(at.ID, err)
	if err != nil {
		return Files{}, err
	}
	keep := c.Git.KeepGitDir != nil && *c.Git.KeepGitDir
	dir, err := o.Commit(ctx, &c.Git, at, keep)
	return Files{Dir: dir, Commit: at.ID}, err
}

// CommitKey stands for the files of a commit.
func CommitKey(g *address.Git, at fetch.Commit, keepGitDir bool) string {
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

// Commit returns a folder with the files of a commit.
func (o *Opener) Commit(ctx context.Context, g *address.Git, at fetch.Commit, keepGitDir bool) (string, error) {
	key := digest.FromString("checkout " + CommitKey(g, at, keepGitDir))
	return o.kept(ctx, key, func() (_ string, err error) {
		st := o.Start("check out " + address.Redact(g.Remote))
		defer func() { st.End(at.ID, err) }()
		draft, err := o.begin(ctx)
		if err != nil {
			return "", err
		}
		scratch, err := o.begin(ctx)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, scratch.Discard()) }()
		opts := fetch.CheckoutOptions{Dir: draft.Dir(), Scratch: scratch.Dir(), KeepGitDir: keepGitDir, Secrets: o.Secrets}
		if err := o.Fetch.Checkout(ctx, *g, at, opts); err != nil {
			return "", err
		}
		return draft.Dir(), draft.Publish(ctx, key)
	})
}

// kept returns the folder that was published under a key, and holds it, or the one that fill publishes. fill returns ""
// when there is no such folder.
func (o *Opener) kept(ctx context.Context, key oci.Digest, fill func() (string, error)) (string, error) {
	unlock, err := o.Lock(ctx, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	id, err := o.Snapshots.Lookup(ctx, key)
	var release func()
	if err == nil {
		release, err = o.Snapshots.Hold(ctx, id)
	}
	if errors.Is(err, errs.NotFound) || errors.Is(err, errs.Conflict) { // somebody is removing it
		return fill()
	}
	if err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holds = append(o.holds, release)
	return o.Snapshots.Dir(id), nil
}

func (o *Opener) begin(ctx context.Context) (snapshot.Draft, error) {
	if o.Begin != nil {
		return o.Begin(ctx)
	}
	d, err := o.Snapshots.Begin(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drafts = append(o.drafts, d)
	return d, nil
}
