package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// What the object store of scripts lets in.
const (
	webAccessKey = "script-access"
	webSecretKey = "script-secret"
	webRegion    = "eu-central-1"
)

// startWeb serves the folder web at $WEB, with ETags; the git repositories in the folder git at $WEB/git; and, to those who
// sign for it, web again as the buckets of an object store at $WEB/s3. The file web.log has a line for each answer.
func startWeb(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: web")
	}
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		ts.Fatalf("web: git is not installed")
	}
	dir := ts.MkAbs("web") // now: a script may change its folder
	files := func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.Error(w, "no such file", http.StatusNotFound)
			return
		}
		etag := fmt.Sprintf(`"%x"`, sha256.Sum256(data))
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(data) //nolint:errcheck // the client says what came
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", files)
	mux.Handle("/git/", http.StripPrefix("/git", &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + ts.MkAbs("git"), "GIT_HTTP_EXPORT_ALL=1"},
	}))
	mux.HandleFunc("/s3/", func(w http.ResponseWriter, r *http.Request) {
		if !signed(r) {
			http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
			return
		}
		http.StripPrefix("/s3", http.HandlerFunc(files)).ServeHTTP(w, r)
	})
	log := &webLog{file: ts.MkAbs("web.log"), next: mux}
	s := httptest.NewServer(log)
	ts.Defer(func() {
		s.Close()
		ts.Check(log.err)
	})
	ts.Setenv("WEB", s.URL)
}

// signed says whether a request has the signature that the sender's key makes of it: AWS Signature Version 4, worked out
// here from its definition.
func signed(r *http.Request) bool {
	fields := map[string]string{}
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	for field := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/") // KEY/DATE/REGION/s3/aws4_request
	date := r.Header.Get("X-Amz-Date")
	if !ok || len(scope) != 5 || scope[0] != webAccessKey || scope[2] != webRegion || !strings.HasPrefix(date, scope[1]) {
		return false
	}
	canonical := r.Method + "\n" + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n"
	for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		canonical += name + ":" + strings.TrimSpace(value) + "\n"
	}
	canonical += "\n" + fields["SignedHeaders"] + "\n" + r.Header.Get("X-Amz-Content-Sha256")
	text := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", date, strings.Join(scope[1:], "/"), sha256.Sum256([]byte(canonical)))
	key := []byte("AWS4" + webSecretKey)
	for _, part := range append(scope[1:], text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return fields["Signature"] == hex.EncodeToString(key)
}

// webLog notes answers.
type webLog struct {
	file string
	next http.Handler
	mu   sync.Mutex
	err  error
}

func (l *webLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	l.next.ServeHTTP(rec, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.OpenFile(l.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s %s %d\n", r.Method, r.URL.Path, rec.status)
		err = firstError(err, f.Close())
	}
	l.err = firstError(l.err, err)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}
