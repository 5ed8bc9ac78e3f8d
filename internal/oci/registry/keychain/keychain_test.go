package keychain_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"slipway/internal/oci/registry/acr"
	"slipway/internal/oci/registry/keychain"
)

// docker is a Docker configuration with one host.
type docker struct{ host string }

func (d docker) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() == d.host {
		return authn.FromConfig(authn.AuthConfig{Username: "docker", Password: "config"}), nil
	}
	return authn.Anonymous, nil
}

type resource string

func (r resource) String() string      { return string(r) + "/a/b" }
func (r resource) RegistryStr() string { return string(r) }

// helpers makes a folder of credential helpers that answer for every host, or fail, and returns how to find them.
func helpers(t *testing.T, answers map[string]string) func(string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, answer := range answers {
		script := "#!/bin/sh\nread host\necho '" + answer + "'\n"
		if answer == "" {
			script = "#!/bin/sh\necho 'credentials not found in native keychain'\nexit 1\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return func(name string) (string, error) {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		return path, err
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"TempUsername":"acr","AuthorizationToken":"` + r.URL.Query().Get("InstanceId") + `","ExpireTime":99999999999999,
			"data":{"tempUserName":"acr","authorizationToken":"personal","expireDate":99999999999999}}`))
	}))
	t.Cleanup(api.Close)
	const (
		instance = "demo-registry.cn-hangzhou.cr.aliyuncs.com"
		personal = "registry.cn-hangzhou.aliyuncs.com"
		ecr      = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
	)
	gitlab := map[string]string{"CI_REGISTRY": "registry.gitlab.example.com", "CI_REGISTRY_USER": "ci", "CI_REGISTRY_PASSWORD": "pw", "CI_JOB_TOKEN": "job"}
	login := func(user, secret string) string {
		return `{"ServerURL":"x","Username":"` + user + `","Secret":"` + secret + `"}`
	}
	for _, tt := range []struct {
		name, host string
		docker     string
		env        map[string]string
		helpers    map[string]string
		key        bool
		instances  map[string]string
		want       string
	}{
		{name: "nobody", host: "registry.example.com", want: ""},
		{name: "Docker's configuration", host: "registry.example.com", docker: "registry.example.com", want: "docker:config"},
		{name: "GitHub", host: "ghcr.io", env: map[string]string{"GITHUB_TOKEN": "gh", "GITHUB_ACTOR": "octo"}, want: "octo:gh"},
		{name: "GitHub without a name", host: "ghcr.io", env: map[string]string{"GITHUB_TOKEN": "gh"}, want: "x-access-token:gh"},
		{name: "GitHub's token goes nowhere else", host: "ghcr.io.example.com", env: map[string]string{"GITHUB_TOKEN": "gh"}, want: ""},
		{name: "Docker's configuration beats GitHub", host: "ghcr.io", docker: "ghcr.io", env: map[string]string{"GITHUB_TOKEN": "gh"}, want: "docker:config"},
		{name: "GitLab", host: "registry.gitlab.example.com", env: gitlab, want: "ci:pw"},
		{name: "GitLab's job token", host: "registry.gitlab.example.com", env: map[string]string{"CI_REGISTRY": "registry.gitlab.example.com", "CI_JOB_TOKEN": "job"}, want: "gitlab-ci-token:job"},
		{name: "GitLab's go nowhere else", host: "registry.example.com", env: gitlab, want: ""},
		{name: "ECR", host: ecr, helpers: map[string]string{"ecr-login": login("AWS", "ecr")}, want: "AWS:ecr"},
		{name: "ECR in China", host: "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", helpers: map[string]string{"ecr-login": login("AWS", "ecr")}, want: "AWS:ecr"},
		{name: "ECR without helper", host: ecr, want: ""},
		{name: "no ECR", host: "x.dkr.ecr.example.com", helpers: map[string]string{"ecr-login": login("AWS", "ecr")}, want: ""},
		{name: "Artifact Registry", host: "europe-docker.pkg.dev", helpers: map[string]string{"gcloud": login("_dcgcloud_token", "gar")}, want: "_dcgcloud_token:gar"},
		{name: "the first helper that answers", host: "eu.gcr.io", helpers: map[string]string{"gcr": "", "gcloud": login("g", "second")}, want: "g:second"},
		{name: "Azure", host: "demo.azurecr.io", helpers: map[string]string{"acr-env": login("<token>", "identity")}, want: "identity token identity"},
		{name: "ACR with an instance", host: instance, key: true, docker: instance, instances: map[string]string{instance: "cri-1"}, want: "acr:cri-1"},
		{name: "Docker's configuration beats ACR without an instance", host: personal, key: true, docker: personal, want: "docker:config"},
		{name: "ACR's personal edition", host: personal, key: true, want: "acr:personal"},
		{name: "ACR without a key", host: personal, want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := keychain.Options{
				Docker: docker{tt.docker}, Getenv: func(name string) string { return tt.env[name] },
				LookPath: helpers(t, tt.helpers),
			}
			if tt.key {
				o.ACR = acr.NewKeychain(acr.Options{Key: acr.AccessKey{ID: "id", Secret: "s"}, Endpoint: api.URL, Instances: tt.instances, Now: time.Now})
			}
			auth, err := keychain.New(o).ResolveContext(t.Context(), resource(tt.host))
			if err != nil {
				t.Fatal(err)
			}
			got, err := describe(t.Context(), auth)
			if err != nil || got != tt.want {
				t.Errorf("credentials are %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func describe(ctx context.Context, auth authn.Authenticator) (string, error) {
	c, err := authn.Authorization(ctx, auth)
	switch {
	case err != nil:
		return "", err
	case c.IdentityToken != "":
		return "identity token " + c.IdentityToken, nil
	case c.Username == "":
		return "", nil
	default:
		return c.Username + ":" + c.Password, nil
	}
}

func TestHint(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"registry.example.com":                         "",
		"demo-registry-vpc.cn-beijing.cr.aliyuncs.com": "cr:PushRepository",
		"registry.cn-beijing.aliyuncs.com":             "AliyunContainerRegistryFullAccess",
		"1.dkr.ecr.us-east-1.amazonaws.com":            "install docker-credential-ecr-login",
		"europe-docker.pkg.dev":                        "docker-credential-gcr get",
		"demo.azurecr.io":                              "install docker-credential-acr-env",
		"ghcr.io":                                      "write:packages",
	} {
		k := keychain.New(keychain.Options{Getenv: func(string) string { return "" }, LookPath: func(name string) (string, error) {
			if name == "docker-credential-gcr" {
				return "/usr/bin/" + name, nil
			}
			return "", errors.New("not found")
		}})
		if got := k.Hint(host); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("Hint(%s) = %q, want %q", host, got, want)
		}
		if _, ok := acr.Parse(host); ok != strings.Contains(k.Hint(host), "ALIBABA_CLOUD_ACCESS_KEY_ID") {
			t.Errorf("Hint(%s) = %q", host, k.Hint(host))
		}
	}
}
