package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/build/mount/archive"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
)

var key = digest.FromString("key")

// places are the kinds of place, each given as a function that opens the same one again.
func places() map[string]func(*testing.T) func() archive.Place {
	return map[string]func(*testing.T) func() archive.Place{
		"registry": func(t *testing.T) func() archive.Place {
			r, err := serve.New(serve.Options{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := r.Stop(); err != nil {
					t.Error(err)
				}
			})
			repo, err := ref.Parse(r.Addr() + "/mounts")
			if err != nil {
				t.Fatal(err)
			}
			return func() archive.Place {
				client := registry.New(registry.Options{})
				t.Cleanup(client.Close)
				return archive.NewRegistry(client, repo)
			}
		},
		"folder": func(t *testing.T) func() archive.Place {
			folder := filepath.Join(t.TempDir(), "carried")
			return func() archive.Place {
				p, err := archive.NewFolder(folder)
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
		},
	}
}

// forEach runs a test on each kind of place.
func forEach(t *testing.T, test func(t *testing.T, open func() archive.Place)) {
	t.Helper()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, place(t))
		})
	}
}

// machine is one that has a mount's folder.
type machine struct {
	t     *testing.T
	dir   string
	blobs blob.Store
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	root := t.TempDir()
	blobs, err := dir.Open(filepath.Join(root, "content"), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: filepath.Join(root, "mount", "data"), blobs: blobs}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// write makes a file with a time of its own.
func (m *machine) write(name, content string) {
	m.t.Helper()
	p := filepath.Join(m.dir, name)
	when := time.Unix(1_700_000_000+int64(len(name)), 0)
	err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o640), os.Chtimes(p, when, when))
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) save(p archive.Place) archive.Saved {
	m.t.Helper()
	saved, err := archive.Save(m.t.Context(), p, archive.Saving{Key: key, ID: "npm", Dir: m.dir, Create: m.blobs.Create})
	if err != nil {
		m.t.Fatal(err)
	}
	return saved
}

func (m *machine) restore(p archive.Place) {
	m.t.Helper()
	if err := archive.Restore(m.t.Context(), p, archive.Restoring{Key: key, ID: "npm", Dir: m.dir}); err != nil {
		m.t.Fatal(err)
	}
}

// tree is what is in the folder.
func (m *machine) tree() map[string]string {
	m.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(m.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == m.dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch {
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += fmt.Sprint(" ", info.ModTime().Unix(), " ", digest.FromBytes(data))
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what += " " + to
		}
		rel, err := filepath.Rel(m.dir, p)
		all[rel] = what
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

func wantSame(t *testing.T, got, want *machine) {
	t.Helper()
	if diff := cmp.Diff(want.tree(), got.tree()); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
}

func TestSaveAndRestore(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, open func() archive.Place) {
		one, two := newMachine(t), newMachine(t)
		err := archive.Restore(t.Context(), open(), archive.Restoring{Key: key, Dir: two.dir})
		if !errors.Is(err, errs.NotFound) {
			t.Fatalf("Restore of what was never saved: %v, want not found", err)
		}
		if saved := one.save(open()); !saved.Empty {
			t.Errorf("saving an empty folder: %+v", saved)
		}
		one.write("a/file", "content")
		one.write("b/other", "")
		if err := errors.Join(os.Symlink("../a/file", filepath.Join(one.dir, "b/link")), os.Link(filepath.Join(one.dir, "a/file"), filepath.Join(one.dir, "b/hard"))); err != nil {
			t.Fatal(err)
		}
		if saved := one.save(open()); saved.Packs != 1 || saved.Sent != 1 || saved.Bytes == 0 {
			t.Errorf("saving: %+v", saved)
		}
		if saved := one.save(open()); !saved.Unchanged {
			t.Errorf("saving again: %+v", saved)
		}
		two.restore(open())
		wantSame(t, two, one)
		if saved := two.save(open()); !saved.Unchanged {
			t.Errorf("saving what was restored: %+v", saved)
		}
		two.write("a/file", "CONTENT") // of the same size; its time is the same, too
		later := time.Unix(1_800_000_000, 0)
		if err := os.Chtimes(filepath.Join(two.dir, "a/file"), later, later); err != nil {
			t.Fatal(err)
		}
		if saved := two.save(open()); saved.Unchanged || saved.Sent != 1 {
			t.Errorf("saving what has changed: %+v", saved)
		}
		three := newMachine(t)
		three.restore(open())
		wantSame(t, three, two)
	})
}

// TestPacks changes one file of many, and adds one: only packs with these in them are sent.
func TestPacks(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, open func() archive.Place) {
		m := newMachine(t)
		random := rand.NewChaCha8([32]byte{1})
		noise := make([]byte, 256<<10)
		for i := range 160 {
			_, _ = random.Read(noise) // never fails
			m.write(fmt.Sprintf("%02d/%03d", i/20, i), string(noise))
		}
		first := m.save(open())
		if first.Packs < 4 || first.Sent != first.Packs {
			t.Fatalf("saving: %+v", first)
		}
		m.write("05/100", "changed")
		m.write("08/new", "new")
		if saved := m.save(open()); saved.Sent < 1 || saved.Sent > 4 || saved.Packs < first.Packs-1 {
			t.Errorf("saving a change: %+v, the first time %+v", saved, first)
		}
		other := newMachine(t)
		other.restore(open())
		wantSame(t, other, m)
	})
}

// TestSavesAtOnce lets machines save and restore at once: whatever is restored is what some machine has saved, whole.
func TestSavesAtOnce(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, open func() archive.Place) {
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for round := range 3 {
					m := newMachine(t)
					content := strings.Repeat(fmt.Sprintf("machine %d round %d\n", i, round), 1000)
					for n := range 3 {
						m.write(fmt.Sprintf("dir%d/file", n), content)
					}
					m.save(open())
					got := newMachine(t)
					got.restore(open())
					if tree := got.tree(); len(tree) != 6 || tree["dir0/file"] != tree["dir1/file"] || tree["dir1/file"] != tree["dir2/file"] {
						t.Errorf("restored is what nobody saved: %v", tree)
					}
				}
			})
		}
		all.Wait()
	})
}

// TestFolderIsSwept saves again and again: what no manifest names any more goes.
func TestFolderIsSwept(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "carried")
	m := newMachine(t)
	for i := range 5 {
		m.write("file", strings.Repeat("x", 100+i))
		p, err := archive.NewFolder(folder)
		if err != nil {
			t.Fatal(err)
		}
		m.save(p)
	}
	blobs, err := filepath.Glob(filepath.Join(folder, "blobs/sha256/*"))
	if err != nil || len(blobs) != 2 {
		t.Errorf("%d blobs, %v; want a pack and a config", len(blobs), err)
	}
	// Damage is found, and is no cache to start from.
	for _, b := range blobs {
		data, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(b, os.O_WRONLY, 0) // the same file, with all that is known of it
		if err == nil {
			_, err = f.WriteAt([]byte{data[len(data)/2] ^ 1}, int64(len(data)/2))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := archive.NewFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	got := newMachine(t)
	if err := archive.Restore(t.Context(), p, archive.Restoring{Key: key, Dir: got.dir}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("Restore of what is damaged: %v, want corrupt", err)
	}
	if len(got.tree()) > 0 {
		t.Errorf("left behind: %v", got.tree())
	}
}

// TestForeignManifests are not taken for cache mounts, and make way when something is saved.
func TestForeignManifests(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, open func() archive.Place) {
		p := open()
		config := []byte("{}")
		desc := digest.FromBytes(config)
		if _, err := p.Put(t.Context(), bytesSource(config)); err != nil {
			t.Fatal(err)
		}
		manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + desc.String() + `","size":2},"layers":[]}`
		if err := p.Store(t.Context(), key, []byte(manifest)); err != nil {
			t.Fatal(err)
		}
		m := newMachine(t)
		if err := archive.Restore(t.Context(), open(), archive.Restoring{Key: key, Dir: m.dir}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("Restore of an image: %v, want corrupt", err)
		}
		m.write("file", "x")
		m.save(open())
		got := newMachine(t)
		got.restore(open())
		wantSame(t, got, m)
	})
}

func bytesSource(data []byte) registry.Source {
	return registry.Source{
		Descriptor: func(context.Context) (d oci.Descriptor, err error) {
			d.Digest, d.Size = digest.FromBytes(data), int64(len(data))
			return d, nil
		},
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(string(data[offset:]))), nil
		},
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]archive.Spec{
		"type=registry,ref=host:5000/mounts":         {Type: archive.InRegistry, Ref: "host:5000/mounts"},
		"type=local,dir=a/b,id=npm,mode=ro":          {Type: archive.InFolder, Dir: "a/b", ID: "npm", ReadOnly: true},
		"type=local,dir=x,mode=rw,ignore-error=true": {Type: archive.InFolder, Dir: "x", IgnoreError: true},
	} {
		if got, err := archive.Parse(word); got != want || err != nil {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", word, got, err, want)
		}
	}
	for _, word := range []string{
		"", "x", "type=registry", "type=local", "type=registry,ref=a/b:tag", "type=registry,ref=a/b@sha256:0", "type=registry,ref=a,dir=b",
		"type=local,dir=a,ref=b", "type=s3,ref=a", "type=local,dir=a,mode=max", "type=local,dir=a,ignore-error=perhaps", "type=local,dir=a,ttl=1h",
	} {
		if got, err := archive.Parse(word); !errors.Is(err, errs.Invalid) {
			t.Errorf("Parse(%q) = %+v, %v; want invalid", word, got, err)
		}
	}
}
