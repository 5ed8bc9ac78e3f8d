package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/build/fetch"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob/dir"
)

func newClient(t *testing.T, change ...func(*fetch.Options)) *fetch.Client {
	t.Helper()
	blobs, err := dir.Open(t.TempDir(), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opts := fetch.Options{Dir: t.TempDir(), Blobs: blobs, Pause: time.Millisecond}
	for _, c := range change {
		c(&opts)
	}
	return fetch.New(opts)
}

// serve answers with handle and counts the bodies it sent.
func serve(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

func content(t *testing.T, c *fetch.Client, d oci.Digest) string {
	t.Helper()
	r, err := c.Blobs.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFileIsAskedForAgain(t *testing.T) {
	t.Parallel()
	const modified = "Wed, 21 Oct 2015 07:28:00 GMT"
	for _, tc := range []struct{ name, header, value, condition string }{
		{"ETag", "ETag", `"1"`, "If-None-Match"},
		{"Last-Modified", "Last-Modified", modified, "If-Modified-Since"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var bodies atomic.Int32
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set(tc.header, tc.value)
				if r.Header.Get(tc.condition) == tc.value {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				bodies.Add(1)
				fmt.Fprint(w, "one")
			})
			c := newClient(t)
			get := func() fetch.File {
				t.Helper()
				f, err := c.File(t.Context(), fetch.FileRequest{URL: url + "/x"})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			first := get()
			if got := content(t, c, first.Digest); got != "one" || first.Size != 3 {
				t.Errorf("the file is %q, %+v", got, first)
			}
			want := time.Unix(0, 0)
			if tc.header == "Last-Modified" {
				want = time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)
			}
			if !first.ModTime.Equal(want) {
				t.Errorf("the time is %v, want %v", first.ModTime, want)
			}
			if again := get(); again != first || bodies.Load() != 1 {
				t.Errorf("again: %+v with %d bodies sent", again, bodies.Load())
			}
			if err := c.Blobs.Delete(t.Context(), first.Digest); err != nil {
				t.Fatal(err)
			}
			if again := get(); again != first || bodies.Load() != 2 {
				t.Errorf("with the content gone: %+v with %d bodies sent", again, bodies.Load())
			}
		})
	}
}

func TestFileThatChanged(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		i := n.Add(1)
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, i))
		fmt.Fprintf(w, "text %d", i)
	})
	c := newClient(t)
	for i := 1; i <= 2; i++ {
		f, err := c.File(t.Context(), fetch.FileRequest{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, c, f.Digest); got != fmt.Sprintf("text %d", i) {
			t.Errorf("fetch %d gave %q", i, got)
		}
	}
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, "text")
	})
	c := newClient(t)
	get := func(sum oci.Digest) error {
		_, err := c.File(t.Context(), fetch.FileRequest{URL: url, Checksum: sum})
		return err
	}
	wrong := digest.FromString("other")
	if err := get(wrong); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another checksum: %v", err)
	}
	good := digest.SHA512.FromString("text")
	for range 2 {
		if err := get(good); err != nil {
			t.Error(err)
		}
	}
	if err := get(digest.FromString("text")); err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the server was asked %d times, want twice: a checksum that is known to be right needs nobody", n)
	}
	if err := get(digest.SHA384.FromString("text")); err != nil {
		t.Error(err)
	}
	if err := get(wrong); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another checksum of what is known: %v", err)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	mux := http.NewServeMux()
	answer := func(path string, code int) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(code)
		})
	}
	answer("/missing", http.StatusNotFound)
	answer("/denied", http.StatusUnauthorized)
	answer("/forbidden", http.StatusForbidden)
	answer("/busy", http.StatusServiceUnavailable)
	answer("/odd", http.StatusTeapot)
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		fmt.Fprint(w, "short")
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	url := strings.Replace(serve(t, mux.ServeHTTP), "http://", "http://me:hush@", 1)
	c := newClient(t)
	for path, kind := range map[string]error{
		"/missing": errs.NotFound, "/denied": errs.Denied, "/forbidden": errs.Denied, "/busy": errs.Unavailable, "/short": errs.Unavailable, "/loop": errs.Invalid, "/odd": nil,
	} {
		_, err := c.File(t.Context(), fetch.FileRequest{URL: url + path})
		if err == nil || kind != nil && !errors.Is(err, kind) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := asked.Load(); n != 4+3 {
		t.Errorf("the server was asked %d times, want once for each final answer and three times when it was busy", n)
	}
	if _, err := c.File(t.Context(), fetch.FileRequest{URL: "http://127.0.0.1:1/x"}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a server that is not there: %v", err)
	}
}

func TestRetrySucceeds(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		fmt.Fprint(w, "text")
	})
	if _, err := newClient(t).File(t.Context(), fetch.FileRequest{URL: url}); err != nil {
		t.Error(err)
	}
}

func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush() // the client says what came
		}
		<-done
	})
	defer close(done)
	c := newClient(t, func(o *fetch.Options) { o.Idle = 30 * time.Millisecond })
	for _, path := range []string{"/", "/half"} {
		if _, err := c.File(t.Context(), fetch.FileRequest{URL: url + path}); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "said nothing") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	url := serve(t, func(http.ResponseWriter, *http.Request) { <-done })
	defer close(done)
	stopped := errors.New("stopped")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, stopped)
	defer cancel()
	if _, err := newClient(t).File(ctx, fetch.FileRequest{URL: url}); !errors.Is(err, stopped) {
		t.Errorf("File = %v", err)
	}
}

// A token for one host is not told to another.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	var elsewhere string
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		elsewhere = r.Header.Get("Authorization")
		fmt.Fprint(w, "text")
	})
	other = strings.Replace(other, "127.0.0.1", "localhost", 1)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hush" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/away" {
			http.Redirect(w, r, other, http.StatusFound)
			return
		}
		fmt.Fprint(w, "text")
	})
	c := newClient(t)
	secrets := map[string][]byte{"HTTP_AUTH_TOKEN_" + strings.TrimPrefix(url, "http://"): []byte("hush")}
	for _, path := range []string{"/", "/away"} {
		if _, err := c.File(t.Context(), fetch.FileRequest{URL: url + path, Secrets: secrets}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if elsewhere != "" {
		t.Errorf("another host was told %q", elsewhere)
	}
	_, err := c.File(t.Context(), fetch.FileRequest{URL: url + "/new"})
	if !errors.Is(err, errs.Denied) || !strings.Contains(errs.HintOf(err), "HTTP_AUTH_TOKEN_") {
		t.Errorf("without a token: %v, hint %q", err, errs.HintOf(err))
	}
}

func TestNoWayFromEncryptedToPlain(t *testing.T) {
	t.Parallel()
	plain := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") })
	s := httptest.NewTLSServer(http.RedirectHandler(plain, http.StatusFound))
	t.Cleanup(s.Close)
	c := newClient(t, func(o *fetch.Options) { o.Transport = s.Client().Transport })
	if _, err := c.File(t.Context(), fetch.FileRequest{URL: s.URL}); !errors.Is(err, errs.Denied) {
		t.Errorf("File = %v", err)
	}
}

// What is remembered may be damaged, or of another version.
func TestDamagedMemory(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") })
	c := newClient(t)
	for _, damage := range []string{"", "{", `{"digest":"sha256:../../x"}`, `{"digest":5}`} {
		if _, err := c.File(t.Context(), fetch.FileRequest{URL: url}); err != nil {
			t.Errorf("after %q: %v", damage, err)
		}
		entries, err := os.ReadDir(c.Dir)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%d files are remembered: %v", len(entries), err)
		}
		if err := os.WriteFile(c.Dir+"/"+entries[0].Name(), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 3<<20)) })
	var last int64
	f, err := newClient(t).File(t.Context(), fetch.FileRequest{URL: url, Progress: func(done, _ int64) {
		if done <= last {
			t.Errorf("progress from %d to %d", last, done)
		}
		last = done
	}})
	if err != nil || f.Size != 3<<20 || last == 0 {
		t.Errorf("%+v, %v, last progress %d", f, err, last)
	}
}

// A file may be no larger than was said, whether the server says how large it is or not.
func TestMaxBytes(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, "12345")
	})
	for _, path := range []string{"/", "/chunked"} {
		c := newClient(t)
		if _, err := c.File(t.Context(), fetch.FileRequest{URL: url + path, MaxBytes: 4}); !errors.Is(err, errs.Limit) {
			t.Errorf("%s: five bytes of four: %v", path, err)
		}
		if f, err := c.File(t.Context(), fetch.FileRequest{URL: url + path, MaxBytes: 5}); err != nil || content(t, c, f.Digest) != "12345" {
			t.Errorf("%s: five bytes of five: %v", path, err)
		}
	}
}

// What signs a request sees all of it, and no redirect is followed with it.
func TestSign(t *testing.T) {
	t.Parallel()
	var signed []string
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the other server is asked: %v", r.Header)
	})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, other, http.StatusFound)
		case r.Header.Get("If-None-Match") == `"1"`:
			w.WriteHeader(http.StatusNotModified)
		}
	})
	c := newClient(t)
	sign := func(r *http.Request) error {
		signed = append(signed, r.URL.Path+" "+r.Header.Get("If-None-Match"))
		r.Header.Set("Signature", "mine")
		return nil
	}
	for _, path := range []string{"/a", "/a"} {
		if _, err := c.File(t.Context(), fetch.FileRequest{URL: url + path, Sign: sign}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.File(t.Context(), fetch.FileRequest{URL: url + "/away", Sign: sign}); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("a redirect: %v", err)
	}
	if diff := cmp.Diff([]string{"/a ", `/a "1"`, "/away "}, signed); diff != "" {
		t.Errorf("signed requests mismatch (-want +got):\n%s", diff)
	}
	refused := errors.New("no key")
	_, err := c.File(t.Context(), fetch.FileRequest{URL: url, Sign: func(*http.Request) error { return errs.Mark(refused, errs.Denied) }})
	if !errors.Is(err, refused) || !errors.Is(err, errs.Denied) {
		t.Errorf("a signature that cannot be made: %v", err)
	}
}
