package ref_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

const sum = "sha256:7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa"

func TestParse(t *testing.T) {
	t.Parallel()
	type parts struct{ Registry, Repository, Tag, Digest, Familiar string }
	for in, want := range map[string]parts{
		"alpine":                      {"docker.io", "library/alpine", "latest", "", "alpine:latest"},
		"alpine:3.20":                 {"docker.io", "library/alpine", "3.20", "", "alpine:3.20"},
		"alpine@" + sum:               {"docker.io", "library/alpine", "", sum, "alpine@" + sum},
		"alpine:3.20@" + sum:          {"docker.io", "library/alpine", "3.20", sum, "alpine:3.20@" + sum},
		"docker.io/alpine":            {"docker.io", "library/alpine", "latest", "", "alpine:latest"},
		"index.docker.io/u/x":         {"docker.io", "u/x", "latest", "", "u/x:latest"},
		"library/a/b":                 {"docker.io", "library/a/b", "latest", "", "library/a/b:latest"},
		"docker.io/foo.bar/x":         {"docker.io", "foo.bar/x", "latest", "", "docker.io/foo.bar/x:latest"},
		"docker.io/localhost/x":       {"docker.io", "localhost/x", "latest", "", "docker.io/localhost/x:latest"},
		"ghcr.io/a/b/c:v1":            {"ghcr.io", "a/b/c", "v1", "", "ghcr.io/a/b/c:v1"},
		"localhost/app":               {"localhost", "app", "latest", "", "localhost/app:latest"},
		"localhost:5000/app":          {"localhost:5000", "app", "latest", "", "localhost:5000/app:latest"},
		"127.0.0.1:41234/a__b-c--d.e": {"127.0.0.1:41234", "a__b-c--d.e", "latest", "", "127.0.0.1:41234/a__b-c--d.e:latest"},
		"[::1]:5000/app:v1":           {"[::1]:5000", "app", "v1", "", "[::1]:5000/app:v1"},
		"[fe80::1]/app":               {"[fe80::1]", "app", "latest", "", "[fe80::1]/app:latest"},
		"Registry/app":                {"Registry", "app", "latest", "", "Registry/app:latest"},
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			r, err := ref.Parse(in)
			if err != nil {
				t.Fatal(err)
			}
			got := parts{r.Registry(), r.Repository(), r.Tag(), string(r.Digest()), r.Familiar()}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Parse(%q) mismatch (-want +got)\n%s", in, diff)
			}
		})
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                       "empty",
		"https://ghcr.io/a/b":                    "scheme",
		strings.Repeat("ab", 32):                 "image ID",
		"App":                                    "must be lower case",
		"ghcr.io/a/B":                            "must be lower case",
		"a//b":                                   `component ""`,
		"a..b":                                   `component "a..b"`,
		"a___b":                                  `component "a___b"`,
		"-a":                                     `component "-a"`,
		"a_":                                     `component "a_"`,
		"ghcr.io/":                               "no repository",
		"host:port/a":                            "port",
		"host:/a":                                "port",
		"a_b.c/x":                                "not a host name",
		"-a.b/x":                                 "not a host name",
		"[::g]/a":                                "IPv6",
		"[]/a":                                   `component "[]"`,
		"[]:1/a":                                 "IPv6",
		"a:":                                     `tag ""`,
		"a:.x":                                   `tag ".x"`,
		"a:" + strings.Repeat("x", 129):          "tag",
		"a@":                                     "digest",
		"a@sha256:abc":                           "digest",
		"a@md5:d41d8cd98f00b204e9800998ecf8427e": "unsupported digest algorithm",
		"r.io/" + strings.Repeat("a", 256):       "longer than 255",
		"a b":                                    `component "a b"`,
		"a:b\n":                                  "tag",
		"a@" + sum + "@" + sum:                   "digest",
		"user:password@registry.example/app":     "credentials",
		"$BASE":                                  "must be lower case",
		"${base}":                                "component",
		"scratch:v1:v2":                          `tag "v1:v2"`,
		"registry.example/app@SHA256:" + sum[7:]: "digest",
		"registry.example/app@" + strings.ToUpper(sum): "digest",
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			r, err := ref.Parse(in)
			if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("Parse(%q) = %v, %v; want an errs.Invalid that says %q", in, r, err, want)
			}
		})
	}
}

func TestParseHidesPasswords(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"https://me:hunter2@ghcr.io/a", "me:hunter2@ghcr.io/a:v1"} {
		if _, err := ref.Parse(in); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q) = %v; want an error without the password", in, err)
		}
	}
}

func TestEditing(t *testing.T) {
	t.Parallel()
	r, err := ref.Parse("ghcr.io/a/b:v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, got, want string }{
		{"name", r.Name(), "ghcr.io/a/b"},
		{"tag", r.WithTag("v2").String(), "ghcr.io/a/b:v2"},
		{"digest keeps the tag", r.WithDigest(sum).String(), "ghcr.io/a/b:v1@" + sum},
		{"digest alone", r.WithDigest(sum).WithTag("").String(), "ghcr.io/a/b@" + sum},
		{"elsewhere", r.In("mirror:5000", "cache/a/b").String(), "mirror:5000/cache/a/b:v1"},
		{"unchanged", r.String(), "ghcr.io/a/b:v1"},
		{"zero", ref.Ref{}.String(), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	r, err := ref.Parse("alpine:3.20@" + sum)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []ref.Ref{r, {}} {
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got ref.Ref
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s decodes to %v, want %v", data, got, want)
		}
	}
	if err := json.Unmarshal([]byte(`"A"`), new(ref.Ref)); !errors.Is(err, errs.Invalid) {
		t.Errorf("decoding a bad reference: %v, want errs.Invalid", err)
	}
}

// FuzzParse holds Parse against github.com/distribution/reference, whose grammar it must accept and refuse alike.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "alpine", "alpine:3.20@" + sum, "a/b", "A/b", "a.b/c", "a_b.c/x", "localhost/x", "index.docker.io/x",
		"[::1]:5000/app:v1", "h:1/a__b-c--d.e:T", "docker.io/foo.bar/x", "library/a/b", "a@sha512:" + strings.Repeat("0", 128),
		"İ.x/a", "a:b:c", "a@b@c", "docker.io/library/library/x", strings.Repeat("a", 64), "docker.io//", "h:/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ref.Parse(s)
		oracle, oracleErr := reference.ParseNormalizedNamed(s)
		// The oracle takes "a_b.c/x", whose first component looks like a host and is none, for a name without a registry.
		if oracleErr == nil && reference.Domain(oracle) == "" {
			if err == nil {
				t.Fatalf("Parse(%q) = %v, though it has no valid registry", s, got)
			}
			return
		}
		if (err == nil) != (oracleErr == nil) {
			t.Fatalf("Parse(%q): %v, distribution/reference: %v", s, err, oracleErr)
		}
		if err != nil {
			return
		}
		oracle = reference.TagNameOnly(oracle)
		want := [4]string{reference.Domain(oracle), reference.Path(oracle), tagOf(oracle), string(digestOf(oracle))}
		if diff := cmp.Diff(want, [4]string{got.Registry(), got.Repository(), got.Tag(), string(got.Digest())}); diff != "" {
			t.Fatalf("Parse(%q) mismatch (-want +got)\n%s", s, diff)
		}
		for _, form := range []string{got.String(), got.Familiar()} {
			if again, err := ref.Parse(form); err != nil || again != got {
				t.Fatalf("Parse(%q) = %v, %v; want %v again", form, again, err, got)
			}
		}
	})
}

func tagOf(named reference.Named) string {
	if tagged, ok := named.(reference.Tagged); ok {
		return tagged.Tag()
	}
	return ""
}

func digestOf(named reference.Named) oci.Digest {
	if digested, ok := named.(reference.Digested); ok {
		return digested.Digest()
	}
	return ""
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := ref.Parse("ghcr.io/a/b/c:v1@" + sum); err != nil {
			b.Fatal(err)
		}
	}
}
