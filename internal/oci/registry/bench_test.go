package registry_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/oci"
	"slipway/internal/oci/registry"
)

func quietServer(b *testing.B) *hostile {
	b.Helper()
	h := &hostile{}
	h.Server = httptest.NewUnstartedServer(newRegistry(b))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.Start()
	b.Cleanup(h.Close)
	return h
}

// BenchmarkPushBlob uploads a blob from a file to the embedded registry, over loopback and onto its disk.
func BenchmarkPushBlob(b *testing.B) {
	for name, size := range map[string]int{"4KiB": 4 << 10, "1MiB": 1 << 20, "64MiB": 64 << 20} {
		for _, known := range []bool{true, false} {
			kind := map[bool]string{true: "known", false: "growing"}[known]
			b.Run(name+"/"+kind, func(b *testing.B) {
				h := quietServer(b)
				c := registry.New(registry.Options{Keychain: keychain{}})
				defer c.Close()
				r := h.ref(b, "app")
				data := content(size)
				path := filepath.Join(b.TempDir(), "blob")
				b.SetBytes(int64(size))
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					binary.LittleEndian.PutUint64(data, uint64(i))
					if err := os.WriteFile(path, data, 0o600); err != nil {
						b.Fatal(err)
					}
					desc := describe(data)
					b.StartTimer()
					if _, err := c.PushBlob(b.Context(), r, fromFile(path, desc, known)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func fromFile(path string, desc oci.Descriptor, known bool) registry.Source {
	return registry.Source{
		Known:      func() bool { return known },
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			f, err := os.Open(path)
			if err == nil {
				_, err = f.Seek(offset, io.SeekStart)
			}
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		},
	}
}

func BenchmarkResolve(b *testing.B) {
	h := quietServer(b)
	seed(b, h, "app:v1")
	c := registry.New(registry.Options{Keychain: keychain{}})
	defer c.Close()
	r := h.ref(b, "app:v1")
	for b.Loop() {
		if _, _, err := c.Resolve(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBlob(b *testing.B) {
	h := quietServer(b)
	c := registry.New(registry.Options{Keychain: keychain{}})
	defer c.Close()
	r := h.ref(b, "app")
	data := content(64 << 20)
	if _, err := c.PushBlob(b.Context(), r, complete(data)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		body, err := c.Blob(b.Context(), r, describe(data))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			b.Fatal(err)
		}
		if err := body.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
