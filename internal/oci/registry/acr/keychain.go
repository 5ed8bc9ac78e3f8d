package acr

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"slipway/internal/errs"
)

// margin is how long before its end a token is not used any more.
const margin = 5 * time.Minute

// Options say how a Keychain works.
type Options struct {
	// Key is the access key. Required.
	Key AccessKey
	// Endpoint is the API's address, scheme://host[:port]. Default: that of the registry's region.
	Endpoint string
	// Instances gives ids of Enterprise instances by host. Default: they are looked up by name.
	Instances map[string]string
	// HTTP carries the requests. Default: http.DefaultTransport.
	HTTP http.RoundTripper
	// Now is the clock. Required.
	Now func() time.Time
}

// Keychain has the passwords of ACR's registries. Its methods may be called from several goroutines at once.
type Keychain struct {
	api api
	now func() time.Time

	mu        sync.Mutex // also while a token is asked for: others wait for it
	instances map[string]string
	passwords map[string]password // by host
}

var (
	_ authn.Keychain        = (*Keychain)(nil)
	_ authn.ContextKeychain = (*Keychain)(nil)
)

// NewKeychain returns a keychain. It makes no request.
func NewKeychain(o Options) *Keychain {
	k := &Keychain{
		now: o.Now, instances: map[string]string{}, passwords: map[string]password{},
		api: api{http: &http.Client{Transport: o.HTTP}, endpoint: o.Endpoint, key: o.Key, now: o.Now, nonce: rand.Text},
	}
	for host, id := range o.Instances {
		k.instances[host] = id
	}
	return k
}

// Instance says which Enterprise instance a host belongs to.
func (k *Keychain) Instance(host, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.instances[host] != id {
		k.instances[host] = id
		delete(k.passwords, host)
	}
}

// Knows reports whether a host's instance has been named.
func (k *Keychain) Knows(host string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.instances[host] != ""
}

// Resolve implements authn.Keychain for those who have no context.
func (k *Keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext returns the password of a registry of ACR, and authn.Anonymous for every other one.
func (k *Keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	host := r.RegistryStr()
	k.mu.Lock()
	defer k.mu.Unlock()
	address, ok := Parse(host)
	id := k.instances[host]
	if !ok && id == "" {
		return authn.Anonymous, nil
	}
	p, ok := k.passwords[host]
	if !ok || !k.now().Before(p.until.Add(-margin)) {
		var err error
		if p, err = k.ask(ctx, address, host, id); err != nil {
			return nil, err
		}
		k.passwords[host] = p
	}
	return authn.FromConfig(authn.AuthConfig{Username: p.user, Password: p.secret}), nil
}

func (k *Keychain) ask(ctx context.Context, a Address, host, id string) (password, error) {
	var err error
	switch {
	case id == "" && !a.Enterprise():
		return k.api.personal(ctx, a.Region)
	case id == "":
		if id, err = k.api.instance(ctx, a.Region, a.Name); err != nil {
			return password{}, err
		}
		k.instances[host] = id
	}
	if a.Region == "" && k.api.endpoint == "" {
		err := errs.Mark(errors.New("the region of "+host+", an ACR instance with a name of its own, is not known"), errs.Invalid)
		return password{}, errs.Hint(err, "set acrEndpoint in the configuration")
	}
	return k.api.authorization(ctx, a.Region, id)
}
