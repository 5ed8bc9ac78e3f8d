package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// tokens is a token server and the guard of a registry that believes it.
type tokens struct {
	*httptest.Server
	user, password string
	life           int

	mu     sync.Mutex
	issued map[string][]string // token to scopes
	asked  []string
}

func newTokens(t *testing.T, user, password string, life int) *tokens {
	t.Helper()
	s := &tokens{user: user, password: password, life: life, issued: make(map[string][]string)}
	s.Server = httptest.NewServer(http.HandlerFunc(s.issue))
	t.Cleanup(s.Close)
	return s
}

func (s *tokens) issue(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if r.Method == http.MethodPost && r.PostFormValue("refresh_token") == s.password {
		user, password = s.user, s.password
	}
	if user != s.user || password != s.password {
		refuse(w, 401, "UNAUTHORIZED", "wrong password "+password)
		return
	}
	scopes := r.URL.Query()["scope"]
	if r.Method == http.MethodPost {
		scopes = strings.Fields(r.PostFormValue("scope"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.Join(scopes, " "))
	value := fmt.Sprintf("token-%d", len(s.asked))
	s.issued[value] = scopes
	_ = json.NewEncoder(w).Encode(map[string]any{"token": value, "expires_in": s.life})
}

// guard lets requests through that carry a token for what they want, and challenges the others.
func (s *tokens) guard(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
	action := "pull"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		action = "push"
	}
	repository := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, kind := range []string{"/blobs/", "/manifests/", "/tags/"} {
		repository, _, _ = strings.Cut(repository, kind)
	}
	value := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	scopes := s.issued[value]
	s.mu.Unlock()
	for _, scope := range scopes {
		if strings.HasPrefix(scope, "repository:"+repository+":") && strings.Contains(scope, action) {
			next.ServeHTTP(w, r)
			return
		}
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:%s:pull"`, s.URL, repository))
	refuse(w, 401, "UNAUTHORIZED", "authentication required")
}

func (s *tokens) scopes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func TestBearer(t *testing.T) {
	t.Parallel()
	for name, login := range map[string]keychain{
		"password":       {Username: "me", Password: "hunter2"},
		"identity token": {IdentityToken: "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTokens(t, "me", "hunter2", 300)
			h := newHostile(t, s.guard)
			c := newClient(t, registry.Options{Keychain: login})
			data := content(1000)
			if _, err := c.PushBlob(t.Context(), h.ref(t, "app"), complete(data)); err != nil {
				t.Fatal(err)
			}
			if _, err := readBlob(t, c, h.ref(t, "app"), describe(data)); err != nil {
				t.Fatal(err)
			}
			mounting := complete(data)
			mounting.MountFrom = []ref.Ref{h.ref(t, "app")}
			if pushed, err := c.PushBlob(t.Context(), h.ref(t, "app2"), mounting); err != nil || !pushed.Mounted {
				t.Fatalf("mount = %+v, %v", pushed, err)
			}
			want := []string{
				"repository:app:pull,push",
				"repository:app2:pull,push",
				"repository:app2:pull,push repository:app:pull",
			}
			if diff := cmp.Diff(want, s.scopes()); diff != "" {
				t.Errorf("scopes mismatch (-want +got)\n%s", diff)
			}
			// One challenge teaches it all.
			requests := []string{
				"HEAD blobs", "HEAD blobs", "POST blobs/uploads", "PUT blobs/uploads", "GET blobs",
				"HEAD blobs", "POST blobs/uploads",
			}
			if diff := cmp.Diff(requests, h.asked()); diff != "" {
				t.Errorf("requests mismatch (-want +got)\n%s", diff)
			}
		})
	}
}

func TestBearerIsRenewed(t *testing.T) {
	t.Parallel()
	s := newTokens(t, "", "", 300)
	h := newHostile(t, s.guard)
	c := newClient(t, registry.Options{})
	r := h.ref(t, "app:v1")
	data := content(1000)
	if _, err := c.PushBlob(t.Context(), r, complete(data)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	clear(s.issued) // as if the registry had been set up anew
	s.mu.Unlock()
	// The stream is refused in its middle and sent once more with a new token.
	if _, err := c.PushBlob(t.Context(), r, growing(content(2000))); err != nil {
		t.Fatal(err)
	}
	if got := len(s.scopes()); got != 2 {
		t.Errorf("%d tokens were asked for, want 2", got)
	}
}

func TestDeniedKeepsSecrets(t *testing.T) {
	t.Parallel()
	s := newTokens(t, "me", "right", 300)
	h := newHostile(t, s.guard)
	var logged strings.Builder
	c := newClient(t, registry.Options{
		Keychain: keychain{Username: "me", Password: "hunter2"},
		Logger:   slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	_, _, err := c.Resolve(t.Context(), h.ref(t, "app:v1"))
	if !errors.Is(err, errs.Denied) || !strings.Contains(errs.HintOf(err), "docker login "+h.host()) {
		t.Errorf("Resolve: %v (hint %q), want Denied with a hint to log in", err, errs.HintOf(err))
	}
	if text := err.Error() + errs.HintOf(err) + logged.String(); strings.Contains(text, "hunter2") {
		t.Errorf("the password shows: %s", text)
	}
}

func TestBasic(t *testing.T) {
	t.Parallel()
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" {
			w.Header().Add("WWW-Authenticate", `Digest realm="x", Basic realm="registry"`)
			refuse(w, 401, "UNAUTHORIZED", "")
			return
		}
		behave(w, r, n, next)
	})
	r := h.ref(t, "app")
	c := newClient(t, registry.Options{Keychain: keychain{Username: "me", Password: "hunter2"}})
	if _, err := c.PushBlob(t.Context(), r, complete(nil)); err != nil {
		t.Fatal(err)
	}
	for name, login := range map[string]keychain{"nobody": {}, "wrong password": {Username: "me", Password: "x"}} {
		c := newClient(t, registry.Options{Keychain: login})
		h.asked()
		if _, err := c.PushBlob(t.Context(), r, complete(nil)); !errors.Is(err, errs.Denied) {
			t.Errorf("%s: %v, want Denied", name, err)
		}
		if got := len(h.asked()); got > 2 {
			t.Errorf("%s: %d requests, want no more than 2", name, got)
		}
	}
}

// TestDockerConfig reads credentials as docker leaves them, through the default keychain.
func TestDockerConfig(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", "Basic")
			refuse(w, 401, "UNAUTHORIZED", "")
			return
		}
		behave(w, r, n, next)
	})
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	// bWU6aHVudGVyMg== is me:hunter2.
	config := fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6aHVudGVyMg=="}}}`, h.host())
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := registry.New(registry.Options{})
	defer c.Close()
	if err := c.CanPush(t.Context(), h.ref(t, "app")); err != nil {
		t.Error(err)
	}
}

// TestRealms are challenges that would carry credentials to where they do not belong.
func TestRealms(t *testing.T) {
	t.Parallel()
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) {
		w.Header().Set("WWW-Authenticate", "Bearer realm="+r.Header.Get("X-Realm"))
		refuse(w, 401, "UNAUTHORIZED", "")
	})
	for realm, want := range map[string]string{
		"":                             "no valid realm",
		`"::"`:                         "no valid realm",
		`"ftp://127.0.0.1/token"`:      "over ftp",
		`"http://127.0.0.1:1/token"`:   "connection refused",
		`"file:///etc/passwd"`:         "no valid realm",
		`"https://127.0.0.1:1/token"`:  "connection refused",
		`"` + h.URL + `/v2/app/token"`: "401",
	} {
		c := newClient(t, registry.Options{
			Keychain:  keychain{Username: "me", Password: "hunter2"},
			Transport: withHeader{"X-Realm", realm},
		})
		_, _, err := c.Resolve(t.Context(), h.ref(t, "app:v1"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("realm %s: %v, want an error that says %q", realm, err, want)
		}
	}
}

type withHeader struct{ name, value string }

func (h withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(h.name, h.value)
	return http.DefaultTransport.RoundTrip(r)
}
