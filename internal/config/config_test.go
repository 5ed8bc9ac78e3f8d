package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/config"
	"slipway/internal/errs"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file string
		want       config.Config
	}{
		{"empty", "", config.Config{}},
		{"comment only", "# later\n", config.Config{}},
		{"null", "~\n", config.Config{}},
		{
			"everything",
			`---
insecureRegistries: [registry.lan:5000, 10.0.0.7]
registryMirrors:
  docker.io: [mirror-a.lan, mirror-b.lan:8080]
  quay.io: mirror-a.lan
mapRegistry:
  registry-vpc.cn-hangzhou.aliyuncs.com: 127.0.0.1:5000/hangzhou/
mapNas:
  server.cn-hangzhou.nas.aliyuncs.com:/fc: /srv/nas
acrEndpoint: https://cr.example.com/
mapNetwork: {vpc-1: host, cn-hangzhou: none}
mapLogs: {demo/store: /var/log/slipway, other: "https://logs.lan/ingest?a=b"}
acrInstances: {demo-registry.cn-hangzhou.cr.aliyuncs.com: cri-1}
acceleratedSuffixes: [_lazy, _very_lazy, _lazy]
gc: {maxUsed: 20g, minFree: 2.5%, maxCacheMount: off}
runnerImage: registry.lan/build:1
`,
			config.Config{
				InsecureRegistries: []string{"registry.lan:5000", "10.0.0.7"},
				RegistryMirrors: map[string][]string{
					"docker.io": {"mirror-a.lan", "mirror-b.lan:8080"},
					"quay.io":   {"mirror-a.lan"},
				},
				MapRegistry: map[string]string{"registry-vpc.cn-hangzhou.aliyuncs.com": "127.0.0.1:5000/hangzhou"},
				MapNAS:      map[string]string{"server.cn-hangzhou.nas.aliyuncs.com:/fc": "/srv/nas"},

				MapNetwork:          map[string]string{"vpc-1": "host", "cn-hangzhou": "none"},
				MapLogs:             map[string]string{"demo/store": "/var/log/slipway", "other": "https://logs.lan/ingest?a=b"},
				ACREndpoint:         "https://cr.example.com",
				ACRInstances:        map[string]string{"demo-registry.cn-hangzhou.cr.aliyuncs.com": "cri-1"},
				AcceleratedSuffixes: []string{"_very_lazy", "_lazy"},
				GC: config.GC{
					MaxUsed: config.Amount{Bytes: 20 << 30}, MinFree: config.Amount{Percent: 2.5}, MaxCacheMount: config.Amount{Off: true},
				},
				RunnerImage: "registry.lan/build:1",
			},
		},
		{"no garbage collection", "gc: off\n", config.Config{GC: config.GC{
			MaxUsed: config.Amount{Off: true}, MinFree: config.Amount{Off: true},
			MaxCacheMount: config.Amount{Off: true}, MaxCacheMounts: config.Amount{Off: true},
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := config.Decode("config.yaml", []byte(tc.file))
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Decode mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeMistakes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, file, want string }{
		{"unknown key", "insecureRegistry: [a]\n", `config.yaml:1:1: unknown key "insecureRegistry"; did you mean "insecureRegistries"?`},
		{"key like no other", "color: on\n", `config.yaml:1:1: unknown key "color"; keys are ["acceleratedSuffixes" "acrEndpoint" "acrInstances" "gc" "insecureRegistries" "mapLogs" "mapNas" "mapNetwork" "mapRegistry" "registryMirrors" "runnerImage"]`},
		{"syntax", "mapNas: [\n", "config.yaml:2:1: "},
		{"not a mapping", "- a\n", "config.yaml:1:1: want a mapping"},
		{"second document", "mapNas: {}\n---\nmapNas: {}\n", "config.yaml:2:1: a second document"},
		{"twice", "mapNas: {}\nmapNas: {}\n", "config.yaml:2:1: "},
		{"list is a mapping", "insecureRegistries: {a: b}\n", "config.yaml:1:21: want a list"},
		{"list in a list", "insecureRegistries:\n  - [a]\n", "config.yaml:2:5: want text"},
		{"host is a URL", "insecureRegistries: ['http://a']\n", `config.yaml:1:22: "http://a": want a host, not a URL`},
		{"mirror host with a path", "registryMirrors:\n  docker.io: [a/b]\n", `config.yaml:2:15: "a/b": want a host`},
		{"map to nothing", "mapRegistry:\n  a.example: ''\n", "config.yaml:2:3: a host is missing"},
		{"map to a list", "mapRegistry:\n  a.example: [b]\n", "config.yaml:2:14: want text"},
		{"network of no kind", "mapNetwork: {vpc-1: bridge}\n", "config.yaml:1:14: want VPC=host"},
		{"logs to nowhere", "mapLogs: {a/b: ''}\n", "config.yaml:1:11: want PROJECT/LOGSTORE=DIR"},
		{"logs by FTP", "mapLogs: {a/b: 'ftp://x'}\n", "config.yaml:1:11: want a folder, or an address"},
		{"endpoint without a scheme", "acrEndpoint: cr.example.com\n", "config.yaml:1:14: want an address"},
		{"endpoint is a list", "acrEndpoint: [a]\n", "config.yaml:1:14: want text"},
		{"suffix of no tag", "acceleratedSuffixes: [_ok, a/b]\n", `config.yaml:1:28: a tag has only letters, digits and _.-`},
		{"instance without an id", "acrInstances: {a.example: ''}\n", "config.yaml:1:16: want HOST=ID"},
		{"share without a path", "mapNas:\n  server: /srv\n", "config.yaml:2:3: the share is not SERVER:/PATH"},
		{"bound that is none", "gc: {maxUsd: 1g}\n", `config.yaml:1:6: unknown key "maxUsd"; did you mean "maxUsed"?`},
		{"bound without an amount", "gc:\n  maxUsed: much\n", "config.yaml:2:12: maxUsed: much: want a size"},
		{"bound of too much", "gc: {minFree: 120%}\n", "config.yaml:1:15: minFree: 120%: want more than 0%"},
		{"bound of nothing", "gc: {minFree: 0}\n", "config.yaml:1:15: minFree: 0: want a size"},
		{"bounds are a word", "gc: on\n", `config.yaml:1:5: "on": want off, or a mapping`},
		{"bound is a list", "gc: {minFree: [1g]}\n", "config.yaml:1:15: want text"},
		{"image is a list", "runnerImage: [a]\n", "config.yaml:1:14: want text"},
		{"all at once", "color: on\nmapNas:\n  server: /srv\n", "config.yaml:3:3: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Decode("config.yaml", []byte(tc.file))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Decode: %v, want %q in it", err, tc.want)
			}
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("Decode: %v is not errs.Invalid", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := config.Load(filepath.Join(dir, "absent.yaml")); err != nil {
		t.Errorf("Load of a file that is not there: %v", err)
	}
	if _, err := config.Load(dir); err == nil {
		t.Error("Load of a folder succeeded")
	}
	big := filepath.Join(dir, "100%s.yaml")
	if err := os.WriteFile(big, []byte("#"+strings.Repeat(" ", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(big); !errors.Is(err, errs.Invalid) {
		t.Errorf("Load of a megabyte: %v, want errs.Invalid", err)
	}
}

func TestOver(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"SLIPWAY_INSECURE_REGISTRIES": "b.lan,a.lan",
		"SLIPWAY_REGISTRY_MIRRORS":    "m1.lan,quay.io=m2.lan",
		"SLIPWAY_MAP_NAS":             "nas:/a=/srv/a",
		"SLIPWAY_GC":                  "maxUsed=1g,minFree=off",
		"SLIPWAY_RUNNER_IMAGE":        "top.lan/build:2",
	}
	top, err := config.FromEnv(func(k string) string { return env[k] })
	if err != nil {
		t.Fatalf("FromEnv: %v", err)
	}
	below := config.Config{
		InsecureRegistries: []string{"a.lan", "c.lan"},
		RegistryMirrors:    map[string][]string{"docker.io": {"old.lan"}, "ghcr.io": {"m3.lan"}},
		MapRegistry:        map[string]string{"x.example": "y.example"},
		GC:                 config.GC{MaxUsed: config.Amount{Percent: 5}, MaxCacheMounts: config.Amount{Bytes: 7}},
		RunnerImage:        "low.lan/build:1",
	}
	want := config.Config{
		InsecureRegistries: []string{"a.lan", "b.lan", "c.lan"},
		RegistryMirrors:    map[string][]string{"docker.io": {"m1.lan"}, "quay.io": {"m2.lan"}, "ghcr.io": {"m3.lan"}},
		MapRegistry:        map[string]string{"x.example": "y.example"},
		MapNAS:             map[string]string{"nas:/a": "/srv/a"},
		GC: config.GC{
			MaxUsed: config.Amount{Bytes: 1 << 30}, MinFree: config.Amount{Off: true}, MaxCacheMounts: config.Amount{Bytes: 7},
		},
		RunnerImage: "top.lan/build:2",
	}
	if diff := cmp.Diff(want, top.Over(below)); diff != "" {
		t.Errorf("Over mismatch (-want +got):\n%s", diff)
	}
}

func TestParseMistakes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		words config.Words
		want  string
	}{
		{"no host", config.Words{InsecureRegistries: []string{""}}, `insecure registry "": a host is missing`},
		{"mirror of nothing", config.Words{RegistryMirrors: []string{"=a"}}, `registry mirror "=a": a host is missing`},
		{"map without =", config.Words{MapRegistry: []string{"a"}}, `registry map "a": want HOST=HOST[/PREFIX]`},
		{"GC of nothing", config.Words{GC: []string{"x=1g"}}, `garbage collection "x=1g": want off, or KEY=AMOUNT with a KEY of maxUsed, minFree, maxCacheMount, maxCacheMounts`},
		{"NAS without folder", config.Words{MapNAS: []string{"a:/b="}}, `NAS map "a:/b=": want SERVER:/PATH=DIR`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Parse(tc.words)
			if err == nil || err.Error() != tc.want || !errors.Is(err, errs.Invalid) {
				t.Errorf("Parse: %v, want an errs.Invalid %q", err, tc.want)
			}
		})
	}
}

func TestHome(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		env  map[string]string
		uid  int
		want string
	}{
		{"told", map[string]string{"SLIPWAY_HOME": "/srv/slipway/", "HOME": "/root"}, 0, "/srv/slipway"},
		{"root", map[string]string{"HOME": "/root"}, 0, "/var/lib/slipway"},
		{"user", map[string]string{"HOME": "/home/a"}, 1000, "/home/a/.local/share/slipway"},
		{"XDG", map[string]string{"HOME": "/home/a", "XDG_DATA_HOME": "/data"}, 1000, "/data/slipway"},
		{"nowhere", nil, 1000, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := config.Home(func(k string) string { return tc.env[k] }, tc.uid)
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("Home = %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("insecureRegistries: [a]\nregistryMirrors: {docker.io: b}\nmapRegistry: {a: b/c}\nmapNas: {'a:/b': /c}\n")
	f.Add("a: &a [*a]\n")
	f.Add("? [a]\n: b\n")
	f.Fuzz(func(t *testing.T, file string) {
		if _, err := config.Decode("f", []byte(file)); err != nil && !errors.Is(err, errs.Invalid) {
			t.Errorf("Decode(%q): %v is not errs.Invalid", file, err)
		}
	})
}

func TestAmount(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		amount config.Amount
		want   int64
		bound  bool
	}{
		{config.Amount{}, 7, true},
		{config.Amount{Bytes: 5}, 5, true},
		{config.Amount{Percent: 12.5}, 125, true},
		{config.Amount{Off: true}, 0, false},
	} {
		if got, ok := tc.amount.Of(1000, 7); got != tc.want || ok != tc.bound {
			t.Errorf("%+v of 1000 = %d, %t; want %d, %t", tc.amount, got, ok, tc.want, tc.bound)
		}
	}
}
