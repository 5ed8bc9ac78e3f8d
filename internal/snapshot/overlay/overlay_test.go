package overlay_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/snapshot"
	"slipway/internal/snapshot/overlay"
	"slipway/internal/snapshot/snapshottest"
)

// TestMain lets the test binary run as the process that TestRecoverKilled kills.
func TestMain(m *testing.M) {
	if root := os.Getenv("SNAPSHOT_TEST_DRAFT"); root != "" {
		draftAndWait(root)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, root string, opts overlay.Options) *overlay.Overlay {
	t.Helper()
	o, err := overlay.Open(root, opts)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestSnapshotter(t *testing.T) {
	t.Parallel()
	snapshottest.Test(t, func(t *testing.T) snapshot.Snapshotter { return open(t, t.TempDir(), overlay.Options{}) })
}

// folders returns the names of all folders, and of what is in the trash.
func folders(t *testing.T, root string) (ids, trash []string) {
	t.Helper()
	for _, pattern := range []string{"*-*", "trash/*"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if pattern == "*-*" {
			ids = paths
		} else {
			trash = paths
		}
	}
	return ids, trash
}

func recoverAll(t *testing.T, o *overlay.Overlay) {
	t.Helper()
	if err := o.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRecoverKilled kills a process with a draft, while this one has another.
func TestRecoverKilled(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	o := open(t, root, overlay.Options{})
	mine, err := o.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "SNAPSHOT_TEST_DRAFT="+root)
	if _, err := cmd.StdinPipe(); err != nil { // stays open while the process is to live
		t.Fatal(err)
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	recoverAll(t, o)
	if ids, _ := folders(t, root); len(ids) != 2 {
		t.Errorf("folders %v, want two: both processes live", ids)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	recoverAll(t, o)
	if ids, trash := folders(t, root); len(ids) != 1 || len(trash) != 0 {
		t.Errorf("folders %v and trash %v, want the living draft alone", ids, trash)
	}
	if err := mine.Discard(); err != nil {
		t.Error(err)
	}
	if ids, trash := folders(t, root); len(ids)+len(trash) != 0 {
		t.Errorf("folders %v and trash %v are left", ids, trash)
	}
}

// draftAndWait is the process that is killed.
func draftAndWait(root string) {
	o, err := overlay.Open(root, overlay.Options{})
	if err != nil {
		panic(err)
	}
	d, err := o.Begin(context.Background())
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(d.Dir(), "file"), nil, 0o644); err != nil {
		panic(err)
	}
	_, _ = io.WriteString(os.Stdout, "!")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(d)
}

// TestRestart checks that folders of another boot of the machine are not used unless they were flushed.
func TestRestart(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	before := open(t, root, overlay.Options{Boot: "before"})
	publish := func(o *overlay.Overlay, name string) snapshot.ID {
		t.Helper()
		d, err := o.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Publish(t.Context(), digest.FromString(name)), d.Discard()); err != nil {
			t.Fatal(err)
		}
		return d.ID()
	}
	settled := publish(before, "settled")
	if err := before.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost, idle := publish(before, "lost"), publish(before, "idle")

	after := open(t, root, overlay.Options{Boot: "after"})
	if id, err := after.Lookup(t.Context(), digest.FromString("settled")); err != nil || id != settled {
		t.Errorf("Lookup of a flushed folder = %q, %v; want %q", id, err, settled)
	}
	if id, err := after.Lookup(t.Context(), digest.FromString("lost")); !errors.Is(err, errs.NotFound) {
		t.Errorf("Lookup of a folder that a crash may have damaged = %q, %v; want not found", id, err)
	}
	if _, err := os.Stat(after.Dir(lost)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	again := publish(after, "lost")
	if id, err := after.Lookup(t.Context(), digest.FromString("lost")); err != nil || id != again {
		t.Errorf("Lookup once it is unpacked again = %q, %v; want %q", id, err, again)
	}
	recoverAll(t, after)
	if _, err := os.Stat(after.Dir(idle)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Recover left a folder that nobody will trust: %v", err)
	}
	if links, _ := filepath.Glob(filepath.Join(root, "keys/sha256/*")); len(links) != 2 {
		t.Errorf("keys %v, want two", links)
	}
}

// TestDiscardLarge checks that discarding many files is quick and that they go with the next Recover.
func TestDiscardLarge(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	o := open(t, root, overlay.Options{})
	d, err := o.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2500 {
		if err := os.WriteFile(filepath.Join(d.Dir(), strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
	if ids, trash := folders(t, root); len(ids) != 0 || len(trash) != 1 {
		t.Errorf("folders %v and trash %v, want one in the trash", ids, trash)
	}
	recoverAll(t, o)
	if ids, trash := folders(t, root); len(ids)+len(trash) != 0 {
		t.Errorf("folders %v and trash %v are left", ids, trash)
	}
}

// TestInterruptedRemoval checks that what a removal left in the trash goes with the next Recover.
func TestInterruptedRemoval(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	o := open(t, root, overlay.Options{})
	if err := os.MkdirAll(filepath.Join(root, "trash/x/fs/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "aaaaaaaaaaaa-0123456789abcdef"), 0o755); err != nil {
		t.Fatal(err)
	}
	recoverAll(t, o)
	if ids, trash := folders(t, root); len(ids)+len(trash) != 0 {
		t.Errorf("folders %v and trash %v are left", ids, trash)
	}
}

// TestKeysAreLinks checks what a person sees.
func TestKeysAreLinks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	o := open(t, root, overlay.Options{})
	d, err := o.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Discard(); err != nil {
			t.Error(err)
		}
	}()
	key := digest.FromString("layer")
	if err := d.Publish(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	got, err := filepath.EvalSymlinks(filepath.Join(root, "keys", strings.Replace(key.String(), ":", "/", 1), "fs"))
	if err != nil || got != d.Dir() {
		t.Errorf("the key leads to %q, %v; want %q", got, err, d.Dir())
	}
}

func BenchmarkLookup(b *testing.B) {
	o, err := overlay.Open(b.TempDir(), overlay.Options{})
	if err != nil {
		b.Fatal(err)
	}
	key := digest.FromString("layer")
	d, err := o.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := d.Discard(); err != nil {
			b.Error(err)
		}
	}()
	if err := d.Publish(b.Context(), key); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := o.Lookup(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDraft(b *testing.B) {
	o, err := overlay.Open(b.TempDir(), overlay.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		d, err := o.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Discard(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	o := open(t, t.TempDir(), overlay.Options{})
	draft, err := o.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(draft.Dir(), "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	usage := func() overlay.Usage {
		t.Helper()
		all, err := o.Usage(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("Usage = %v, %v; want one folder", all, err)
		}
		return all[0]
	}
	want := func(u overlay.Usage, held bool) {
		t.Helper()
		if u.ID != draft.ID() || u.Held != held || u.Size < 1<<20 || u.Size > 1<<21 || time.Since(u.Used) > time.Hour {
			t.Errorf("Usage = %+v; want %s, held: %t", u, draft.ID(), held)
		}
	}
	want(usage(), true)
	if err := draft.Publish(t.Context(), digest.FromString("key")); err != nil {
		t.Fatal(err)
	}
	if err := draft.Discard(); err != nil {
		t.Fatal(err)
	}
	want(usage(), false)
	if u := usage(); len(u.Keys) != 1 || u.Keys[0] != digest.FromString("key") {
		t.Errorf("Usage = %+v, want its key", u)
	}
	long := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(filepath.Join(filepath.Dir(o.Dir(draft.ID())), "lock"), long, long); err != nil {
		t.Fatal(err)
	}
	if u := usage(); time.Since(u.Used) < 24*time.Hour {
		t.Errorf("looking at a folder counts as its use: %+v", u)
	}
	release, err := o.Hold(t.Context(), draft.ID())
	if err != nil {
		t.Fatal(err)
	}
	want(usage(), true)
	if err := o.PutAside(t.Context(), draft.ID()); !errors.Is(err, errs.Conflict) {
		t.Errorf("PutAside of a held folder: %v, want a conflict", err)
	}
	release()
	if err := o.PutAside(t.Context(), draft.ID()); err != nil {
		t.Fatal(err)
	}
	if all, err := o.Usage(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("Usage = %v, %v; want nothing", all, err)
	}
	if err := o.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}
