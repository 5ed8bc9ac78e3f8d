package last_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/build/cache/last"
	"slipway/internal/errs"
)

func build(files int) *last.Build {
	b := &last.Build{
		Stages: []last.Stage{
			{Name: "build", Base: "busybox@sha256:1", Steps: []last.Step{
				{Name: "[build 2/3] COPY . .", Key: digest.FromString("copy"), Parts: json.RawMessage(`{"Op":"copy"}`)},
				{Name: "[build 3/3] RUN make", Key: digest.FromString("run"), Parts: json.RawMessage(`{"Op":"run"}`)},
			}},
			{Name: "1"},
		},
		Files: map[string]last.Sum{},
	}
	for i := range files {
		b.Files[fmt.Sprintf("src/package-%d/file-%d.go", i/100, i)] = last.Sum([]byte(digest.FromString(fmt.Sprint(i)).Encoded()[:8]))
	}
	return b
}

func TestWriteRead(t *testing.T) {
	t.Parallel()
	for _, files := range []int{0, 1, 5000} {
		file := filepath.Join(t.TempDir(), "last", "build")
		if _, err := last.Read(file); !errors.Is(err, errs.NotFound) {
			t.Errorf("Read of nothing = %v, want not found", err)
		}
		want := build(files)
		if last.Same(file, want.ID()) {
			t.Error("Same before there was a build")
		}
		for range 2 {
			if err := want.Write(file); err != nil {
				t.Fatal(err)
			}
		}
		if !last.Same(file, want.ID()) {
			t.Error("not Same after it was written")
		}
		got, err := last.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Read mismatch (-want +got):\n%s", diff)
		}
		want.Stages[0].Steps[0].Key = digest.FromString("another")
		if last.Same(file, want.ID()) {
			t.Error("Same with another key")
		}
	}
}

// TestSize keeps what is remembered of a large context small.
func TestSize(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "build")
	if err := build(20_000).Write(file); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 500_000 {
		t.Errorf("%d bytes for 20,000 files, want at most 25 for each", info.Size())
	}
}

func FuzzRead(f *testing.F) {
	file := filepath.Join(f.TempDir(), "build")
	if err := build(3).Write(file); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add([]byte("slipway-last-1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "build")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := last.Read(file); err != nil && !errors.Is(err, errs.NotFound) {
			t.Errorf("Read: %v", err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	file := filepath.Join(b.TempDir(), "build")
	some := build(20_000)
	for b.Loop() {
		if err := some.Write(file); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSame(b *testing.B) {
	file := filepath.Join(b.TempDir(), "build")
	some := build(20_000)
	if err := some.Write(file); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !last.Same(file, some.ID()) {
			b.Fatal("another")
		}
	}
}
