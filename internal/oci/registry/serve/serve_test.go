package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry/serve"
)

// start runs a registry on a port of its own for as long as the test runs.
func start(t *testing.T, opts serve.Options) *serve.Registry {
	t.Helper()
	r := open(t, opts)
	if err := r.Start(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, opts serve.Options) *serve.Registry {
	t.Helper()
	r, err := serve.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("stop registry: %v", err)
		}
	})
	return r
}

// request is one exchange with a handler, without a network.
type request struct {
	method, path string
	body         []byte
	header       map[string]string
}

func (q request) do(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), q.method, q.path, bytes.NewReader(q.body))
	for name, value := range q.header {
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func (q request) want(t *testing.T, h http.Handler, status int) *httptest.ResponseRecorder {
	t.Helper()
	w := q.do(t, h)
	if w.Code != status {
		t.Fatalf("%s %s: %d %s, want %d", q.method, q.path, w.Code, w.Body, status)
	}
	return w
}

func pushBlob(t *testing.T, h http.Handler, repository string, data []byte) oci.Digest {
	t.Helper()
	d := digest.FromBytes(data)
	request{method: "POST", path: "/v2/" + repository + "/blobs/uploads/?digest=" + d.String(), body: data}.want(t, h, 201)
	return d
}

func pushImage(t *testing.T, h http.Handler, repository, tag string, layer []byte) oci.Digest {
	t.Helper()
	config := []byte("{}")
	pushBlob(t, h, repository, layer)
	pushBlob(t, h, repository, config)
	data, err := oci.Marshal(oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), []oci.Descriptor{oci.Describe(oci.MediaTypeLayer, layer)}, nil))
	if err != nil {
		t.Fatal(err)
	}
	request{
		method: "PUT", path: "/v2/" + repository + "/manifests/" + tag, body: data,
		header: map[string]string{"Content-Type": oci.MediaTypeManifest},
	}.want(t, h, 201)
	return digest.FromBytes(data)
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	r := open(t, serve.Options{Dir: t.TempDir()})
	blob := pushBlob(t, r, "app", []byte("x"))
	manifest := map[string]string{"Content-Type": oci.MediaTypeManifest}
	none := digest.FromString("none").String()
	for name, c := range map[string]struct {
		q    request
		code int
		text string
	}{
		"unknown endpoint":            {request{method: "GET", path: "/v3/"}, 404, "UNSUPPORTED"},
		"no kind":                     {request{method: "GET", path: "/v2/app"}, 404, "UNSUPPORTED"},
		"method":                      {request{method: "PUT", path: "/v2/app/blobs/" + none}, 405, "UNSUPPORTED"},
		"capitals":                    {request{method: "GET", path: "/v2/App/tags/list"}, 404, "NAME_INVALID"},
		"no name":                     {request{method: "GET", path: "/v2//tags/list"}, 404, "NAME_INVALID"},
		"path escape by name":         {request{method: "GET", path: "/v2/../../etc/manifests/passwd"}, 404, "NAME_INVALID"},
		"path escape by encoded dot":  {request{method: "GET", path: "/v2/%2e%2e/manifests/x"}, 404, "NAME_INVALID"},
		"path escape by tag":          {request{method: "GET", path: "/v2/app/manifests/.."}, 404, "MANIFEST_UNKNOWN"},
		"path escape by digest":       {request{method: "GET", path: "/v2/app/blobs/sha256:..%2f..%2fx"}, 404, "UNSUPPORTED"},
		"path escape by upload":       {request{method: "PATCH", path: "/v2/app/blobs/uploads/.."}, 404, "BLOB_UPLOAD_UNKNOWN"},
		"inner folder as a name":      {request{method: "GET", path: "/v2/app/_tags/manifests/v1"}, 404, "NAME_INVALID"},
		"bad digest":                  {request{method: "GET", path: "/v2/app/blobs/sha256:x"}, 400, "DIGEST_INVALID"},
		"unknown blob":                {request{method: "GET", path: "/v2/app/blobs/" + none}, 404, "BLOB_UNKNOWN"},
		"another's blob":              {request{method: "GET", path: "/v2/other/blobs/" + blob.String()}, 404, "BLOB_UNKNOWN"},
		"unknown upload":              {request{method: "GET", path: "/v2/app/blobs/uploads/" + strings.Repeat("A", 26)}, 404, "BLOB_UPLOAD_UNKNOWN"},
		"wrong digest":                {request{method: "POST", path: "/v2/app/blobs/uploads/?digest=" + none, body: []byte("x")}, 400, "DIGEST_INVALID"},
		"unknown repository's tags":   {request{method: "GET", path: "/v2/none/tags/list"}, 404, "NAME_UNKNOWN"},
		"bad page":                    {request{method: "GET", path: "/v2/app/tags/list?n=-1"}, 400, "PAGINATION_NUMBER_INVALID"},
		"manifest that is no JSON":    {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte("x"), header: manifest}, 400, "MANIFEST_INVALID"},
		"manifest without a type":     {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":2}`)}, 400, "MANIFEST_INVALID"},
		"manifest for browsers":       {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":2}`), header: map[string]string{"Content-Type": "text/html"}}, 400, "MANIFEST_INVALID"},
		"manifest of two types":       {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":2,"mediaType":"` + oci.MediaTypeIndex + `"}`), header: manifest}, 400, "MANIFEST_INVALID"},
		"manifest of another time":    {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":1}`), header: manifest}, 400, "MANIFEST_INVALID"},
		"manifest with a bad digest":  {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":2,"layers":[{"digest":"../x"}]}`), header: manifest}, 400, "MANIFEST_INVALID"},
		"manifest before its blobs":   {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":2,"layers":[{"digest":"` + none + `"}]}`), header: manifest}, 400, "MANIFEST_BLOB_UNKNOWN"},
		"manifest to replace another": {request{method: "PUT", path: "/v2/app/manifests/v1", body: []byte(`{"schemaVersion":2}`), header: map[string]string{"Content-Type": oci.MediaTypeManifest, "If-Match": `"` + none + `"`}}, 412, "DENIED"},
		"manifest with a bad tag":     {request{method: "PUT", path: "/v2/app/manifests/-v1", body: []byte(`{"schemaVersion":2}`), header: manifest}, 400, "TAG_INVALID"},
		"manifest under another's digest": {
			request{method: "PUT", path: "/v2/app/manifests/" + none, body: []byte(`{"schemaVersion":2}`), header: manifest}, 400, "DIGEST_INVALID",
		},
		"manifest too large": {
			request{method: "PUT", path: "/v2/app/manifests/v1", body: make([]byte, oci.MaxManifestBytes+1), header: manifest}, 413, "SIZE_INVALID",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := c.q.do(t, r)
			if w.Code != c.code || !strings.Contains(w.Body.String(), `"code":"`+c.text+`"`) {
				t.Errorf("%s %s: %d %s, want %d %s", c.q.method, c.q.path, w.Code, w.Body, c.code, c.text)
			}
		})
	}
}

func TestOneProcessPerFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, serve.Options{Dir: dir})
	if _, err := serve.New(serve.Options{Dir: dir}); !errors.Is(err, errs.Conflict) {
		t.Errorf("a second registry on the folder: %v, want Conflict", err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	again := open(t, serve.Options{Dir: dir})
	if err := again.Start(t.Context(), "127.0.0.1:0"); err != nil {
		t.Error(err)
	}
	if err := again.Start(t.Context(), "127.0.0.1:0"); !errors.Is(err, errs.Conflict) {
		t.Errorf("a second Start: %v, want Conflict", err)
	}
}

func TestStartStopsWithItsContext(t *testing.T) {
	t.Parallel()
	r := open(t, serve.Options{Dir: t.TempDir()})
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := r.Start(ctx, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + r.Addr() + "/v2/")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /v2/: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	cancel(errors.New("enough"))
	for range 2 {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	}
	if resp, err := http.Get("http://" + r.Addr() + "/v2/"); err == nil {
		_ = resp.Body.Close()
		t.Error("it still answers")
	}
}

// TestKilledMidUpload kills a process in the middle of an upload, and goes on with the next one on the same folder.
func TestKilledMidUpload(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("SERVE_TEST_DIR"); dir != "" {
		child(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledMidUpload$")
	cmd.Env = append(os.Environ(), "SERVE_TEST_DIR="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 256)
	n, err := stdout.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	location := strings.TrimSpace(string(line[:n]))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the process was not killed")
	}

	r := open(t, serve.Options{Dir: dir})
	half := bytes.Repeat([]byte("a"), 100_000)
	w := request{method: "GET", path: location}.want(t, r, 204)
	if got := w.Header().Get("Range"); got != "0-99999" {
		t.Fatalf("the upload has Range %q, want all that was sent", got)
	}
	whole := append(half, []byte("bbb")...)
	request{method: "PUT", path: location + "?digest=" + digest.FromBytes(whole).String(), body: []byte("bbb")}.want(t, r, 201)
	w = request{method: "GET", path: "/v2/app/blobs/" + digest.FromBytes(whole).String()}.want(t, r, 200)
	if !bytes.Equal(w.Body.Bytes(), whole) {
		t.Error("the blob is not what was sent before and after the kill")
	}
}

// child sends half a blob, says where the upload is, and waits to be killed in the middle of the request.
func child(t *testing.T, dir string) {
	t.Helper()
	r := open(t, serve.Options{Dir: dir})
	location := request{method: "POST", path: "/v2/app/blobs/uploads/"}.want(t, r, 202).Header().Get("Location")
	body := io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("a"), 100_000)), tell(location), os.Stdin)
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPatch, location, body))
}

type tell string

func (s tell) Read([]byte) (int, error) {
	if _, err := fmt.Fprintln(os.Stdout, string(s)); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

func TestInterruptedUploadGoesOn(t *testing.T) {
	t.Parallel()
	r := open(t, serve.Options{Dir: t.TempDir()})
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	location := request{method: "POST", path: "/v2/app/blobs/uploads/"}.want(t, r, 202).Header().Get("Location")
	broken := io.MultiReader(bytes.NewReader(data[:700_000]), brokenReader{})
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodPatch, location, broken))
	if w.Code != 400 {
		t.Errorf("the broken request: %d, want 400", w.Code)
	}
	if got := (request{method: "GET", path: location}).want(t, r, 204).Header().Get("Range"); got != "0-699999" {
		t.Errorf("Range %q, want 0-699999", got)
	}
	request{
		method: "PATCH", path: location, body: data[700_000:900_000], header: map[string]string{"Content-Range": "700000-899999"},
	}.want(t, r, 202)
	d := digest.SHA512.FromBytes(data)
	request{method: "PUT", path: location + "?digest=" + d.String(), body: data[900_000:]}.want(t, r, 201)
	request{method: "GET", path: location}.want(t, r, 404)
	w = request{method: "GET", path: "/v2/app/blobs/" + d.String(), header: map[string]string{"Range": "bytes=999990-"}}.want(t, r, 206)
	if w.Body.String() != "0123456789" {
		t.Errorf("the end of the blob is %q", w.Body)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestConcurrentPushesOfTheSameBlob(t *testing.T) {
	t.Parallel()
	r := open(t, serve.Options{Dir: t.TempDir(), Sync: true})
	data := bytes.Repeat([]byte("x"), 1<<20)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() { pushImage(t, r, fmt.Sprintf("app%d", i%3), fmt.Sprintf("v%d", i), data) })
	}
	group.Wait()
	w := request{method: "GET", path: "/v2/app1/blobs/" + digest.FromBytes(data).String()}.want(t, r, 200)
	if !bytes.Equal(w.Body.Bytes(), data) {
		t.Error("the blob is not what was pushed")
	}
	w = request{method: "GET", path: "/v2/_catalog"}.want(t, r, 200)
	if got := w.Body.String(); got != `{"repositories":["app0","app1","app2"]}` {
		t.Errorf("catalog %s", got)
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	type asked struct {
		User, Password string
		serve.Access
	}
	var seen []asked
	r := open(t, serve.Options{
		Dir: t.TempDir(),
		Authorize: func(_ context.Context, user, password string, a serve.Access) error {
			seen = append(seen, asked{user, password, a})
			switch {
			case user == "":
				return errors.New("who are you")
			case a.Write && a.Repository != "mine":
				return errs.Denied
			case a.Repository == "secret":
				return errs.Denied
			}
			return nil
		},
	})
	// bWU6cHc= is me:pw.
	me := map[string]string{"Authorization": "Basic bWU6cHc="}
	w := request{method: "GET", path: "/v2/"}.want(t, r, 401)
	if got := w.Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic realm=") {
		t.Errorf("challenge %q, want Basic", got)
	}
	request{method: "GET", path: "/v2/", header: me}.want(t, r, 200)
	request{method: "POST", path: "/v2/theirs/blobs/uploads/", header: me}.want(t, r, 403)
	d := digest.FromString("x")
	mount := "/v2/mine/blobs/uploads/?mount=" + d.String()
	request{method: "POST", path: mount + "&from=secret", header: me}.want(t, r, 202)
	request{method: "POST", path: mount, header: me}.want(t, r, 202)
	want := []asked{
		{"", "", serve.Access{}},
		{"me", "pw", serve.Access{}},
		{"me", "pw", serve.Access{Repository: "theirs", Write: true}},
		{"me", "pw", serve.Access{Repository: "mine", Write: true}},
		{"me", "pw", serve.Access{Repository: "secret"}},
		{"me", "pw", serve.Access{Repository: "mine", Write: true}},
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("questions mismatch (-want +got)\n%s", diff)
	}
}

func TestPurgesExpiredUploads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, serve.Options{Dir: dir})
	old := request{method: "POST", path: "/v2/a/app/blobs/uploads/"}.want(t, r, 202).Header().Get("Location")
	fresh := request{method: "POST", path: "/v2/a/app/blobs/uploads/"}.want(t, r, 202).Header().Get("Location")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "repositories/a/app/_uploads", filepath.Base(old))
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(file, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	r = open(t, serve.Options{Dir: dir})
	request{method: "GET", path: old}.want(t, r, 404)
	request{method: "GET", path: fresh}.want(t, r, 204)
}

func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, serve.Options{Dir: dir, UploadTTL: time.Hour})
	used, unused, deleted, asked := []byte("used"), []byte("unused"), []byte("deleted"), []byte("asked")
	pushImage(t, r, "app", "v1", used)
	gone := pushImage(t, r, "app", "v2", deleted)
	pushBlob(t, r, "app", unused)
	pushBlob(t, r, "app", asked)
	pushBlob(t, r, "other", deleted)
	request{method: "DELETE", path: "/v2/app/manifests/" + gone.String()}.want(t, r, 202)
	if freed, err := r.Sweep(t.Context()); err != nil || freed != 0 {
		t.Errorf("Sweep of what is young = %d, %v, want 0", freed, err)
	}
	ago := time.Now().Add(-2 * time.Hour)
	links, err := filepath.Glob(filepath.Join(dir, "repositories/app/_blobs/sha256/*"))
	if err != nil || len(links) != 5 {
		t.Fatalf("links %v, %v", links, err)
	}
	for _, link := range links {
		if err := os.Chtimes(link, ago, ago); err != nil {
			t.Fatal(err)
		}
	}
	request{method: "HEAD", path: "/v2/app/blobs/" + digest.FromBytes(asked).String()}.want(t, r, 200)
	if freed, err := r.Sweep(t.Context()); err != nil || freed != int64(len(unused)) {
		t.Errorf("Sweep = %d, %v, want %d bytes freed", freed, err, len(unused))
	}
	for _, c := range []struct {
		repository string
		data       []byte
		status     int
	}{
		{"app", used, 200},
		{"app", unused, 404},
		{"app", deleted, 404},
		{"app", asked, 200},
		{"other", deleted, 200},
	} {
		request{method: "GET", path: "/v2/" + c.repository + "/blobs/" + digest.FromBytes(c.data).String()}.want(t, r, c.status)
	}
}

// TestNothingHalfWritten looks at the folder after pushes that failed in every way.
func TestNothingHalfWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, serve.Options{Dir: dir})
	location := request{method: "POST", path: "/v2/app/blobs/uploads/"}.want(t, r, 202).Header().Get("Location")
	request{method: "PATCH", path: location, body: []byte("x"), header: map[string]string{"Content-Range": "5-5"}}.want(t, r, 416)
	request{method: "PATCH", path: location, body: []byte("x"), header: map[string]string{"Content-Range": "5"}}.want(t, r, 400)
	request{method: "DELETE", path: location}.want(t, r, 204)
	request{method: "POST", path: "/v2/app/blobs/uploads/?digest=" + digest.FromString("y").String(), body: []byte("x")}.want(t, r, 400)
	var left []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			left = append(left, filepath.Base(path))
		}
		return err
	})
	if err != nil || !slices.Equal(left, []string{"lock"}) {
		t.Errorf("the folder has %v, %v, want nothing but its lock", left, err)
	}
}

// Whatever is pushed as a manifest, the registry answers for it, and gives back what it took.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{
		`{"schemaVersion":2}`, `{"schemaVersion":2,"config":{"digest":"sha256:0"}}`, `{"schemaVersion":2,"manifests":[{"digest":"x"},{}]}`,
		`{"schemaVersion":2,"subject":{"digest":"sha256:` + strings.Repeat("0", 64) + `"},"artifactType":"a","annotations":{"a":"b"}}`,
		`{"schemaVersion":2,"layers":[{"urls":["x"],"digest":"../../x"}]}`, `{`, `null`, `[]`,
	} {
		f.Add("v1", oci.MediaTypeManifest, []byte(s))
	}
	f.Add("sha256:0", oci.MediaTypeIndex+"; charset=x", []byte(`{"schemaVersion":2}`))
	r, err := serve.New(serve.Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Stop() })
	f.Fuzz(func(t *testing.T, reference, contentType string, body []byte) {
		do := func(method string, body []byte) *httptest.ResponseRecorder {
			req := httptest.NewRequest(method, "/", bytes.NewReader(body))
			req.URL.Path = "/v2/a/manifests/" + reference
			req.Header["Content-Type"] = []string{contentType}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			if w.Code >= 500 {
				t.Fatalf("%s %q as %q: %d %s", method, body, contentType, w.Code, w.Body)
			}
			return w
		}
		if do(http.MethodPut, body).Code != http.StatusCreated {
			return
		}
		if w := do(http.MethodGet, nil); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), body) {
			t.Errorf("took %q, gives %d %q", body, w.Code, w.Body)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/b/manifests/v1", "/v2/a/blobs/uploads/", "/v2/../x/tags/list", "/v2/a/_x/referrers/sha256:0"} {
		f.Add(s, "GET")
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600); err != nil {
		f.Fatal(err)
	}
	r, err := serve.New(serve.Options{Dir: filepath.Join(dir, "registry")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Stop() })
	f.Fuzz(func(t *testing.T, path, method string) {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL.Path, req.Method = path, method
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		if w.Code >= 500 || strings.Contains(w.Body.String(), "secret") && !strings.Contains(path, "secret") {
			t.Errorf("%s %q: %d %s", method, path, w.Code, w.Body)
		}
	})
}
