package registry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
)

func TestParseChallenges(t *testing.T) {
	t.Parallel()
	type params = map[string]string
	for name, c := range map[string]struct {
		headers []string
		want    []challenge
	}{
		"none":   {nil, nil},
		"bearer": {[]string{`Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"`}, []challenge{{"bearer", params{"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"}}}},
		"two in a line": {
			[]string{`Digest realm="x", nonce=abc, basic Realm = "a \"b\" c"`},
			[]challenge{{"digest", params{"realm": "x", "nonce": "abc"}}, {"basic", params{"realm": `a "b" c`}}},
		},
		"two lines":      {[]string{"Basic", "Negotiate"}, []challenge{{"basic", params{}}, {"negotiate", params{}}}},
		"unended quote":  {[]string{`Bearer realm="https://a`}, []challenge{{"bearer", params{"realm": "https://a"}}}},
		"token68":        {[]string{`Negotiate abc, Basic`}, []challenge{{"negotiate", params{}}, {"abc", params{}}, {"basic", params{}}}},
		"commas alone":   {[]string{`,,, `}, nil},
		"equals nowhere": {[]string{`=x`}, []challenge{{"", params{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := parseChallenges(c.headers)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
				t.Errorf("mismatch (-want +got)\n%s", diff)
			}
		})
	}
}

// What a registry says about a refusal becomes a bounded line without control characters and without our secrets.
func FuzzStatusError(f *testing.F) {
	f.Add(404, "application/json", "3", []byte(`{"errors":[{"code":"NAME_UNKNOWN","message":"no hunter2\u0007"}]}`))
	f.Add(429, "text/plain", "Wed, 21 Oct 2099 07:28:00 GMT", []byte("slow down\nhunter2"))
	f.Add(500, "", "-1", []byte(`{"errors":[]}`))
	f.Add(401, "text/plain", "99999999999999999999", []byte("\xff\xfe"))
	f.Fuzz(func(t *testing.T, status int, contentType, retry string, body []byte) {
		const secret = "hunter2"
		resp := &http.Response{
			StatusCode: status, Body: io.NopCloser(bytes.NewReader(body)),
			Header: http.Header{"Content-Type": {contentType}, "Retry-After": {retry}},
		}
		err := newStatusError(resp, secret)
		text := err.Error()
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || len(text) > 1000 {
			t.Errorf("%q is no line to print", text)
		}
		if strings.Contains(text, secret) {
			t.Errorf("%q tells the secret", text)
		}
		if retryable(err) && errors.Is(err, errs.Denied) {
			t.Errorf("%v is denied and may be tried again", err)
		}
	})
}

// The next page of a list is a query, or there is none.
func FuzzNextPage(f *testing.F) {
	for _, s := range []string{`</v2/a/tags/list?last=x&n=1>; rel="next"`, `<x>; rel=next`, `>`, `<%zz>; rel="next"`, ``} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, link string) {
		if u, ok := nextPage(link); ok && u == nil {
			t.Errorf("nextPage(%q) is there and nil", link)
		}
	})
}

func FuzzParseChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="a",service=b`, `Basic`, `Digest a="\`, `=`, `,a b=c d`, "\x00=\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := len(parseChallenges([]string{s})); got > len(s) {
			t.Errorf("%d challenges in %d bytes", got, len(s))
		}
	})
}

func TestHosts(t *testing.T) {
	t.Parallel()
	c := New(Options{
		Insecure: []string{"10.0.0.1:5000"},
		Mirrors:  map[string][]string{"docker.io": {"mirror.example", "http://cache:5000/hub/", "https://localhost:1"}},
	})
	type place struct {
		Host, Credentials, Repository string
		Schemes                       []string
	}
	plain, tls := []string{"http", "https"}, []string{"https"}
	for name, want := range map[string][]place{
		"alpine": {
			{"mirror.example", "mirror.example", "library/alpine", tls},
			{"cache:5000", "cache:5000", "hub/library/alpine", []string{"http"}},
			{"localhost:1", "localhost:1", "library/alpine", tls},
			{"registry-1.docker.io", "index.docker.io", "library/alpine", tls},
		},
		"ghcr.io/a/b":       {{"ghcr.io", "ghcr.io", "a/b", tls}},
		"localhost:5000/a":  {{"localhost:5000", "localhost:5000", "a", plain}},
		"x.localhost/a":     {{"x.localhost", "x.localhost", "a", plain}},
		"127.9.9.9:1/a":     {{"127.9.9.9:1", "127.9.9.9:1", "a", plain}},
		"[::1]:5000/a":      {{"[::1]:5000", "[::1]:5000", "a", plain}},
		"[::1]/a":           {{"[::1]", "[::1]", "a", plain}},
		"10.0.0.1:5000/a":   {{"10.0.0.1:5000", "10.0.0.1:5000", "a", plain}},
		"10.0.0.2:5000/a":   {{"10.0.0.2:5000", "10.0.0.2:5000", "a", tls}},
		"localhost.evil/a":  {{"localhost.evil", "localhost.evil", "a", tls}},
		"127.0.0.1.nip.io/": nil,
	} {
		r, err := ref.Parse(name)
		if err != nil {
			if want != nil {
				t.Error(err)
			}
			continue
		}
		var got []place
		for _, e := range c.readers(r) {
			got = append(got, place{e.name, e.credentials, e.repository, e.schemesToTry()})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s mismatch (-want +got)\n%s", name, diff)
		}
	}
}

func TestCheckRealm(t *testing.T) {
	t.Parallel()
	c := New(Options{Insecure: []string{"10.0.0.1:5000", "reg.example"}})
	for _, x := range []struct {
		registry, realm string
		ok              bool
	}{
		{"ghcr.io", "https://ghcr.io/token", true},
		{"ghcr.io", "https://auth.example/token", true},
		{"ghcr.io", "http://ghcr.io/token", false},
		{"ghcr.io", "https://127.0.0.1/token", false},
		{"ghcr.io", "https://localhost:9/token", false},
		{"ghcr.io", "https://169.254.169.254/latest", false},
		{"ghcr.io", "https://10.1.1.1/token", false},
		{"ghcr.io", "https://[::ffff:10.1.1.1]/token", false},
		{"ghcr.io", "https://[fe80::1]/token", false},
		{"reg.example", "http://auth.example/token", true},
		{"reg.example", "http://10.1.1.1/token", false},
		{"10.0.0.1:5000", "http://10.0.0.2:5001/token", true},
		{"10.0.0.1:5000", "http://169.254.169.254/latest", false},
		{"10.0.0.1:5000", "http://127.0.0.1:80/", false},
		{"localhost:5000", "http://127.0.0.1:5001/token", true},
		{"localhost:5000", "http://10.0.0.1/token", true},
	} {
		r, err := ref.Parse(x.registry + "/a")
		if err != nil {
			t.Fatal(err)
		}
		realm, err := url.Parse(x.realm)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkRealm(realm, c.origin(r)); (err == nil) != x.ok {
			t.Errorf("%s sends credentials to %s: %v, want it allowed: %v", x.registry, x.realm, err, x.ok)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "Mon, 02 Jan 2006 15:04:05 GMT": 0, "99999999999": 0,
	} {
		if got := retryAfter(header); got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", header, got, want)
		}
	}
	future := time.Now().Add(time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	if got := retryAfter(future); got < 59*time.Minute || got > time.Hour {
		t.Errorf("retryAfter(in an hour) = %v", got)
	}
}

func TestRangeEnd(t *testing.T) {
	t.Parallel()
	type result struct {
		n  int64
		ok bool
	}
	for header, want := range map[string]result{
		"0-99": {100, true}, "bytes=0-9": {10, true}, "0-1": {2, true},
		"0-0": {}, "": {}, "1-2": {}, "0--5": {-4, false}, "0-x": {1, false},
	} {
		n, ok := rangeEnd(header)
		if ok != want.ok || ok && n != want.n {
			t.Errorf("rangeEnd(%q) = %d, %v, want %v", header, n, ok, want)
		}
	}
}

// A reader that passes an error on for io.EOF says that all has been read.
func TestClosedConnectionIsNotAnEnd(t *testing.T) {
	t.Parallel()
	err := networkError(t.Context(), &url.Error{Op: "Get", URL: "http://registry", Err: io.EOF})
	if errors.Is(err, io.EOF) || !errors.Is(err, errs.Unavailable) || err.Error() != "the connection was closed: unexpected EOF" {
		t.Errorf("networkError = %v", err)
	}
}
