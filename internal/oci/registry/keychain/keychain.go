// Package keychain finds credentials for registries: in the Docker configuration, and where there are none in it, in what
// the place that slipway runs in offers anyway.
//
//  1. tokens of ACR instances that a pipeline or the configuration names
//  2. the Docker configuration with its credential helpers
//  3. variables of GitHub Actions and GitLab CI
//  4. the credential helper that a cloud provides for its registries, when it is installed
//  5. tokens of ACR for its other addresses, when there is an access key
//
// Package keychain stores nothing and prints nothing. Helpers are programs of others; the registry client remembers what
// they said.
package keychain

import (
	"context"
	"os/exec"
	"strings"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/google/go-containerregistry/pkg/authn"

	"slipway/internal/oci/registry/acr"
)

// Options say where to look.
type Options struct {
	// Docker is the Docker configuration. Default: authn.DefaultKeychain.
	Docker authn.Keychain
	// Getenv reads the environment. Required.
	Getenv func(string) string
	// LookPath finds a program. Default: exec.LookPath.
	LookPath func(string) (string, error)
	// ACR asks Alibaba Cloud for tokens. Default: nobody does.
	ACR *acr.Keychain
}

// Keychain finds credentials. Its methods may be called from several goroutines at once.
type Keychain struct{ opts Options }

var (
	_ authn.Keychain        = (*Keychain)(nil)
	_ authn.ContextKeychain = (*Keychain)(nil)
)

// New returns a keychain.
func New(o Options) *Keychain {
	if o.Docker == nil {
		o.Docker = authn.DefaultKeychain
	}
	if o.LookPath == nil {
		o.LookPath = exec.LookPath
	}
	return &Keychain{o}
}

// Resolve implements authn.Keychain for those who have no context.
func (k *Keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext returns the first credentials that there are, or authn.Anonymous.
func (k *Keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	host := r.RegistryStr()
	if k.opts.ACR != nil && k.opts.ACR.Knows(host) {
		return k.opts.ACR.ResolveContext(ctx, r)
	}
	auth, err := authn.Resolve(ctx, k.opts.Docker, r)
	if err != nil || auth != authn.Anonymous {
		return auth, err
	}
	if auth := k.environment(host); auth != nil {
		return auth, nil
	}
	if auth := k.helper(host); auth != nil {
		return auth, nil
	}
	if k.opts.ACR != nil {
		return k.opts.ACR.ResolveContext(ctx, r)
	}
	return authn.Anonymous, nil
}

// environment knows the variables that CI systems set for their own registries.
func (k *Keychain) environment(host string) authn.Authenticator {
	env := k.opts.Getenv
	switch {
	case host == "ghcr.io" && env("GITHUB_TOKEN") != "":
		user := env("GITHUB_ACTOR")
		if user == "" {
			user = "x-access-token" // GitHub looks at the token alone
		}
		return authn.FromConfig(authn.AuthConfig{Username: user, Password: env("GITHUB_TOKEN")})
	case host == "" || host != env("CI_REGISTRY"):
		return nil
	case env("CI_REGISTRY_USER") != "" && env("CI_REGISTRY_PASSWORD") != "":
		return authn.FromConfig(authn.AuthConfig{Username: env("CI_REGISTRY_USER"), Password: env("CI_REGISTRY_PASSWORD")})
	case env("CI_JOB_TOKEN") != "":
		return authn.FromConfig(authn.AuthConfig{Username: "gitlab-ci-token", Password: env("CI_JOB_TOKEN")})
	default:
		return nil
	}
}

// helperPrefix begins the name of every credential helper's program.
const helperPrefix = "docker-credential-"

// helper asks a cloud's helpers that are installed. One that fails, having nobody logged in, is as good as none: nobody
// has asked for it.
func (k *Keychain) helper(host string) authn.Authenticator {
	for _, name := range cloudOf(host).helpers {
		program, err := k.opts.LookPath(helperPrefix + name)
		if err != nil {
			continue
		}
		found, err := client.Get(client.NewShellProgramFunc(program), host)
		if err != nil || found.Secret == "" {
			continue
		}
		if found.Username == "<token>" { // the protocol's word for an identity token
			return authn.FromConfig(authn.AuthConfig{IdentityToken: found.Secret})
		}
		return authn.FromConfig(authn.AuthConfig{Username: found.Username, Password: found.Secret})
	}
	return nil
}

// cloud is a provider whose registries have addresses of a kind.
type cloud struct {
	name    string
	helpers []string // in the order of preference
}

func cloudOf(host string) cloud {
	switch {
	case host == "public.ecr.aws",
		strings.Contains(host, ".dkr.ecr.") && (strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")):
		return cloud{"Amazon ECR", []string{"ecr-login"}}
	case strings.HasSuffix(host, "-docker.pkg.dev"), host == "gcr.io", strings.HasSuffix(host, ".gcr.io"):
		return cloud{"Google Artifact Registry", []string{"gcr", "gcloud"}}
	case strings.HasSuffix(host, ".azurecr.io"), strings.HasSuffix(host, ".azurecr.cn"):
		return cloud{"Azure Container Registry", []string{"acr-env"}}
	default:
		return cloud{}
	}
}

// Hint says what somebody can do whom a registry has refused, or "" when there is nothing special about it.
func (k *Keychain) Hint(host string) string {
	if a, ok := acr.Parse(host); ok {
		hint := acr.PushHint(a)
		if _, ok := acr.FromEnv(k.opts.Getenv); !ok {
			names := acr.Variables()
			hint += ", or give slipway an access key in " + names[0] + " and " + names[1]
		}
		return hint
	}
	switch c := cloudOf(host); {
	case c.name != "":
		program := helperPrefix + c.helpers[0]
		if _, err := k.opts.LookPath(program); err != nil {
			return "credentials for " + c.name + " come from a credential helper: install " + program + ", which is then used by itself"
		}
		return "check that the identity of " + program + " may push there: echo " + host + " | " + program + " get"
	case host == "ghcr.io":
		return "log in with docker login ghcr.io, or set GITHUB_TOKEN to a token with write:packages"
	default:
		return ""
	}
}
