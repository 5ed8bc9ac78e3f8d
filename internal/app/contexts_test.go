package app_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/app"
	"slipway/internal/build/attest"
	"slipway/internal/errs"
)

// ownedTar is a tar of a file that belongs to somebody.
func ownedTar(t *testing.T, name, content string, uid int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Uid: uid, Gid: uid})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Files of the main context are root's; those of an archive with a name are whose they are in it.
func TestOwnersOfArchives(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	archive := ownedTar(t, "x", "1", 1234)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(archive) //nolint:errcheck // the client says what came
	}))
	defer s.Close()
	dockerfile := "FROM files\nCOPY x /main\nCOPY --from=files x /named\n"
	got := w.build(t, app.Build{Context: s.URL, File: "-", Stdin: strings.NewReader(dockerfile), Contexts: []string{"files=" + s.URL + "/rootfs.tar"}})
	theirs := strings.Replace(fileOf("0644", "1"), "0:0", "1234:1234", 1)
	want := map[string]string{"/x": theirs, "/main": fileOf("0644", "1"), "/named": theirs}
	if diff := cmp.Diff(want, got.tree); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
}

// Every platform gets the Dockerfile and the context that standard input has once.
func TestStdinForPlatforms(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	for _, b := range []app.Build{
		{Context: "-", Stdin: bytes.NewReader(ownedTar(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n", 0))},
		{Context: t.TempDir(), File: "-", Stdin: strings.NewReader("FROM scratch\nCOPY <<x /\nx\n")},
	} {
		b.Platform = "linux/amd64,linux/arm64"
		im, err := w.Build(t.Context(), b)
		if err != nil {
			t.Errorf("context %s: %v", b.Context, err)
			continue
		}
		if len(im.Platforms) != 2 {
			t.Errorf("context %s: %d images", b.Context, len(im.Platforms))
		}
	}
}

// COPY from nothing finds nothing, and not the context.
func TestCopyFromScratch(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	for _, name := range []string{"scratch", "named"} {
		context := write(t, "x", "1", "Dockerfile", "FROM scratch\nCOPY --from="+name+" x /\n")
		_, err := w.attempt(t, app.Build{Context: context, Contexts: []string{"named=docker-image://scratch"}})
		if !errors.Is(err, errs.NotFound) {
			t.Errorf("COPY --from=%s = %v", name, err)
		}
	}
}

// A provenance names what contexts were fetched from, without passwords.
func TestProvenanceOfContexts(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	archive := ownedTar(t, "Dockerfile", "FROM scratch\nCOPY --from=other Dockerfile /\n", 0)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(archive) //nolint:errcheck // the client says what came
	}))
	defer s.Close()
	at := strings.Replace(s.URL, "http://", "http://me:hush@", 1)
	got := w.build(t, app.Build{Context: at + "/main.tar", Contexts: []string{"other=" + at + "/other.tar"}, Describe: true, Attest: attest.Options{Provenance: attest.Min}})
	text := string(got.Provenance)
	for _, part := range []string{"/main.tar", "/other.tar", "sha256"} {
		if !strings.Contains(text, part) {
			t.Errorf("the provenance lacks %s:\n%s", part, text)
		}
	}
	if strings.Contains(text, "hush") || strings.Contains(got.said, "hush") {
		t.Errorf("the password is told:\n%s\n%s", text, got.said)
	}
}
