package origin

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/snapshot/overlay"
)

// step is told, and tells nobody.
type step struct{}

func (step) Progress(int64, int64) {}
func (step) End(string, error)     {}

// newOpener returns an opener with storage of its own, closed when the test ends.
func newOpener(t testing.TB, change func(*Options)) *Opener {
	t.Helper()
	blobs, err := dir.Open(t.TempDir(), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := overlay.Open(filepath.Join(t.TempDir(), "snapshots"), overlay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{
		Fetch: fetch.New(fetch.Options{Dir: t.TempDir(), Blobs: blobs, Pause: time.Millisecond}), Snapshots: snapshots,
		Lock:   func(context.Context, oci.Digest) (func(), error) { return func() {}, nil },
		Start:  func(string) Step { return step{} },
		Getenv: func(string) string { return "" },
	}
	if change != nil {
		change(&opts)
	}
	o := New(opts)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// open opens a context on standard input.
func open(t testing.TB, data []byte, change func(*Options)) (Files, error) {
	t.Helper()
	o := newOpener(t, func(opts *Options) {
		opts.Stdin = bytes.NewReader(data)
		if change != nil {
			change(opts)
		}
	})
	return o.Open(t.Context(), address.Context{Kind: address.Stdin, Word: "-"})
}

// archive is a tar of files.
func archive(t testing.TB, files ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		content := []byte(h.Name)
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		h.Mode = 0o644
		err := w.WriteHeader(&h)
		if err == nil && h.Typeflag == tar.TypeReg {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// list is the paths below a folder.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, p); rel != "." {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// compressed returns what an archive looks like, compressed in each way that is known.
func compressed(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	forms := map[string][]byte{"tar": data}
	for name, begin := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		var b bytes.Buffer
		w, err := begin(&b)
		if err == nil {
			_, err = w.Write(data)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		forms[name] = b.Bytes()
	}
	return forms
}

func TestArchives(t *testing.T) {
	t.Parallel()
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	data := archive(t, tar.Header{Name: "Dockerfile", ModTime: at}, tar.Header{Name: "./d/x", ModTime: at.Add(-time.Hour)})
	for name, form := range compressed(t, data) {
		f, err := open(t, form, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]string{"Dockerfile", "d", "d/x"}, list(t, f.Dir)); diff != "" {
			t.Errorf("%s: files mismatch (-want +got):\n%s", name, diff)
		}
		if got, err := f.Time(); err != nil || !got.Equal(at) {
			t.Errorf("%s: Time = %v, %v, want that of the newest file", name, got, err)
		}
	}
	f, err := open(t, archive(t), nil)
	if err != nil || f.Dir == "" || len(list(t, f.Dir)) > 0 {
		t.Errorf("an empty archive: %+v, %v", f, err)
	}
	if got, err := f.Time(); err != nil || !got.IsZero() {
		t.Errorf("Time of nothing = %v, %v", got, err)
	}
}

func TestNoArchives(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"FROM scratch\n", strings.Repeat("# a comment\n", 1000)} {
		if f, err := open(t, []byte(text), nil); err != nil || string(f.Alone) != text || f.Dir != "" {
			t.Errorf("%.20q: %+v, %v", text, f, err)
		}
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprint(w, "FROM scratch\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole := archive(t, tar.Header{Name: "a"}, tar.Header{Name: "b"})
	for name, tc := range map[string]struct {
		data []byte
		kind error
	}{
		"nothing":             {nil, errs.Invalid},
		"a compressed text":   {z.Bytes(), errs.Invalid},
		"a program":           {[]byte("\x7fELF\x02\x01\x01\x00\x00"), errs.Invalid},
		"a very long text":    {bytes.Repeat([]byte("#\n"), maxAlone/2+1), errs.Invalid},
		"half an archive":     {whole[:1100], errs.Corrupt},
		"damaged compression": {[]byte("\x1f\x8b\x08\x00abc"), errs.Corrupt},
		"a whiteout":          {archive(t, tar.Header{Name: ".wh.x"}), errs.Invalid},
	} {
		if f, err := open(t, tc.data, nil); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %+v, %v, want %v", name, f, err, tc.kind)
		}
	}
}

// An archive cannot make or read anything outside its folder.
func TestArchiveEscapes(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for name, files := range map[string][]tar.Header{
		"dots":             {{Name: "../../../../../../.." + outside + "/x"}},
		"an absolute name": {{Name: outside + "/x"}},
		"through a link":   {link("l", outside), {Name: "l/x"}},
		"through links":    {link("a", ".."), link("b", "a/../../../../../.."+outside), {Name: "b/x"}},
		"a hard link":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../../etc/passwd"}},
		"over a link":      {link("l", outside+"/x"), {Name: "l"}},
	} {
		f, err := open(t, archive(t, files...), nil)
		if left := list(t, outside); len(left) > 0 {
			t.Fatalf("%s: made %v outside", name, left)
		}
		if err != nil {
			continue
		}
		err = filepath.WalkDir(f.Dir, func(p string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if data, err := os.ReadFile(p); err != nil || bytes.Contains(data, []byte("root:")) {
					t.Errorf("%s: %s is a file of this machine (%v)", name, p, err)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		most int64
		kind error
	}{{10, errs.Limit}, {100, nil}} {
		_, err := open(t, archive(t, tar.Header{Name: "a-name-of-twenty-chars"}), func(o *Options) { o.MaxBytes = tc.most })
		if !errors.Is(err, tc.kind) {
			t.Errorf("22 bytes of %d: %v", tc.most, err)
		}
	}
}

// What a server says is unchanged is neither sent nor unpacked again, and stays the same folder.
func TestHTTP(t *testing.T) {
	t.Parallel()
	data := archive(t, tar.Header{Name: "Dockerfile"})
	sent := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, "/x.tar", http.StatusFound)
		case r.URL.Path != "/x.tar":
			http.NotFound(w, r)
		case r.Header.Get("If-None-Match") == `"1"`:
			w.WriteHeader(http.StatusNotModified)
		default:
			sent++
			w.Write(data) //nolint:errcheck // the client says what came
		}
	}))
	defer s.Close()
	o := newOpener(t, nil)
	at := func(path string) address.Context {
		return address.Context{Kind: address.File, URL: s.URL + path, Word: "the server"}
	}
	first, err := o.Open(t.Context(), at("/x.tar"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := o.Open(t.Context(), at("/x.tar"))
	if err != nil || again.Dir != first.Dir || sent != 1 {
		t.Errorf("again: %+v after %+v, %v; sent %d times", again, first, err, sent)
	}
	if got, err := again.Time(); err != nil || got.Unix() != 1445412480 {
		t.Errorf("Time = %v, %v", got, err)
	}
	if f, err := o.Open(t.Context(), at("/away")); err != nil || f.Dir != first.Dir {
		t.Errorf("after a redirect: %+v, %v", f, err)
	}
	if _, err := o.Open(t.Context(), at("/none")); !errors.Is(err, errs.NotFound) || !strings.HasPrefix(err.Error(), "build context the server: ") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// What was not kept is gone when the opener is closed.
func TestClose(t *testing.T) {
	t.Parallel()
	o := newOpener(t, func(o *Options) { o.Stdin = bytes.NewReader(archive(t, tar.Header{Name: "x"})) })
	f, err := o.Open(t.Context(), address.Context{Kind: address.Stdin})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.Dir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestObjectURL(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		env         map[string]string
		bucket, key string
		want        string // "" when it is refused
	}{
		{nil, "bucket", "a/b.tar", "https://bucket.s3.eu-west-1.amazonaws.com/a/b.tar"},
		{nil, "my.bucket", "a", "https://s3.eu-west-1.amazonaws.com/my.bucket/a"},
		{nil, "Bucket", "a", "https://s3.eu-west-1.amazonaws.com/Bucket/a"},
		{nil, "bucket", "a b+c?d#e%", "https://bucket.s3.eu-west-1.amazonaws.com/a%20b%2Bc%3Fd%23e%25"},
		{nil, "bucket", "../../x", "https://bucket.s3.eu-west-1.amazonaws.com/../../x"},
		{map[string]string{"S3_FORCE_PATH_STYLE": "true"}, "bucket", "a", "https://s3.eu-west-1.amazonaws.com/bucket/a"},
		{map[string]string{"S3_ENDPOINT": "http://minio:9000"}, "bucket", "a", "http://bucket.minio:9000/a"},
		{map[string]string{"S3_ENDPOINT": "minio:9000/", "S3_FORCE_PATH_STYLE": "1"}, "bucket", "a", "https://minio:9000/bucket/a"},
		{map[string]string{"S3_ENDPOINT": "http://127.0.0.1:9000/x"}, "bucket", "a", "http://127.0.0.1:9000/x/bucket/a"},
		{map[string]string{"AWS_ENDPOINT_URL_S3": "https://store"}, "bucket", "a", "https://bucket.store/a"},
		{map[string]string{"S3_ENDPOINT": "ftp://x"}, "bucket", "a", ""},
		{map[string]string{"S3_FORCE_PATH_STYLE": "maybe"}, "bucket", "a", ""},
	} {
		got, err := objectURL(func(k string) string { return tc.env[k] }, "eu-west-1", tc.bucket, tc.key)
		if got != tc.want || err != nil && !errors.Is(err, errs.Invalid) {
			t.Errorf("objectURL(%v, %s, %s) = %q, %v, want %q", tc.env, tc.bucket, tc.key, got, err, tc.want)
		}
	}
}

// Whatever arrives as a context, nothing outside its folder changes, and what comes back is one of the two.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("FROM scratch\n"))
	f.Add(archive(f, tar.Header{Name: "../x"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/x"}))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(archive(f, tar.Header{Name: "a"})) //nolint:errcheck // into memory
	w.Close()                                  //nolint:errcheck // into memory
	f.Add(z.Bytes())
	f.Add([]byte("BZh91AY&SY"))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := open(t, data, func(o *Options) { o.MaxBytes = 1 << 20 })
		if err == nil && (files.Dir == "") == (files.Alone == nil) {
			t.Errorf("%+v", files)
		}
	})
}
