// Package registry is the client of the OCI distribution protocol: it resolves references, reads and writes blobs and
// manifests, and finds what refers to what.
//
//	client := registry.New(registry.Options{Logger: log})
//	desc, manifest, err := client.Resolve(ctx, r)
//	content, err := client.Blob(ctx, r, layer)
//	pushed, err := client.PushBlob(ctx, r, source)
//
// A Client trusts no registry: every byte is held against its digest before the end is reported, and credentials go to
// the host they are for and nowhere else. It spends no round trip on asking whether it may speak: a request is sent as
// is, and only when the registry challenges it are credentials looked up; what the challenge taught is remembered per
// host. A request that failed for a passing reason is tried again, and a transfer that broke goes on where it broke.
//
// Errors carry the kinds of package errs: NotFound, Denied (with a hint to log in), Unavailable when the tries are used
// up, Corrupt when a registry lies. No error or log line holds a password, a token or the query of a URL.
//
// Package registry keeps nothing on disk; that is for package blob and its callers. serve is the other end of the wire.
package registry

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"slipway/internal/oci/ref"
)

// Options adjust a Client. The zero Options speak to public registries with the Docker config's credentials.
type Options struct {
	// Insecure are hosts, as references spell them, that may speak plain HTTP, or TLS with any certificate. A host on
	// this machine's loopback may speak plain HTTP without being listed. Default: none.
	Insecure []string
	// Mirrors maps a registry, as references spell it ("docker.io"), to the hosts asked before it when reading, each
	// [scheme://]host[:port][/prefix]. What a mirror does not have is read from the next, at last from the registry.
	// Default: none.
	Mirrors map[string][]string
	// Keychain finds credentials. Default: authn.DefaultKeychain, the Docker config with its credential helpers.
	Keychain authn.Keychain
	// Hint says what a person can do whom a registry has refused, "" for the usual: docker login. Default: the usual.
	Hint func(registry string) string
	// Logger gets a debug line for each try that failed. Default: nothing is logged.
	Logger *slog.Logger
	// Transport carries the requests. Default: one that keeps connections and uses the environment's proxies.
	Transport http.RoundTripper
	// UserAgent is sent with every request. Default: "slipway".
	UserAgent string
	// Retry says how often and how fast a failed request is tried again.
	Retry Retry
	// Uploads is the number of blobs that are written to one host at a time. Default: 4.
	Uploads int
	// ChunkBytes, when positive, sends blobs in requests of that size, for registries or proxies that cannot take a
	// blob in one. A Client also changes to chunks by itself where a registry refuses a stream. Default: 0, one stream.
	ChunkBytes int64
	// Stall is how long an answer may pause in its middle before its connection is given up. Default: 1 minute.
	Stall time.Duration
	// Sleep waits between tries until d has passed or ctx is done. Default: a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Retry is a policy of exponential back-off: the pause before try n+1 is drawn between half and all of Min·2ⁿ, at most
// Max, and at least what the registry asked for in Retry-After.
type Retry struct {
	// Tries counts the first one too. Default: 5.
	Tries int
	// Min is the first pause. Default: 200 ms.
	Min time.Duration
	// Max is the longest pause. Default: 10 s.
	Max time.Duration
}

// Client speaks to any number of registries. Its methods may be called from several goroutines.
type Client struct {
	opts     Options
	log      *slog.Logger
	insecure map[string]bool
	jitter   func() float64

	http     *http.Client // verifies certificates
	httpWeak *http.Client // for Options.Insecure

	mu     sync.Mutex // guards the fields below
	hosts  map[hostKey]*host
	pushes map[pushKey]*push
}

// New returns a Client. It makes no request.
func New(opts Options) *Client {
	opts = withDefaults(opts)
	c := &Client{
		opts:     opts,
		log:      opts.Logger,
		insecure: make(map[string]bool),
		jitter:   rand.Float64,
		hosts:    make(map[hostKey]*host),
		pushes:   make(map[pushKey]*push),
	}
	for _, name := range opts.Insecure {
		c.insecure[name] = true
	}
	c.http = httpClient(opts.Transport)
	c.httpWeak = httpClient(unverified(opts.Transport))
	return c
}

func withDefaults(o Options) Options {
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	if o.UserAgent == "" {
		o.UserAgent = "slipway"
	}
	if o.Retry.Tries <= 0 {
		o.Retry.Tries = 5
	}
	if o.Retry.Min <= 0 {
		o.Retry.Min = 200 * time.Millisecond
	}
	if o.Retry.Max <= 0 {
		o.Retry.Max = 10 * time.Second
	}
	if o.Uploads <= 0 {
		o.Uploads = 4
	}
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	return o
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
		// A registry may hash a whole blob before it answers the request that finished it.
		ResponseHeaderTimeout: 5 * time.Minute,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
		// Layers are compressed already, and digests are over the bytes as stored.
		DisableCompression: true,
	}
}

// unverified returns the transport without certificate checks. A transport of a foreign kind decides for itself.
func unverified(t http.RoundTripper) http.RoundTripper {
	std, ok := t.(*http.Transport)
	if !ok {
		return t
	}
	weak := std.Clone()
	if weak.TLSClientConfig == nil {
		weak.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	weak.TLSClientConfig.InsecureSkipVerify = true
	return weak
}

// Close drops the idle connections. Calls under way go on.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.httpWeak.CloseIdleConnections()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// scope is what a token is asked for: a repository and what is done with it (the token specification's
// "repository:NAME:pull,push").
type scope struct {
	repository string
	push       bool
	mountFrom  string // another repository that is read from
}

func (s scope) strings() []string {
	actions := "pull"
	if s.push {
		actions = "pull,push"
	}
	list := []string{"repository:" + s.repository + ":" + actions}
	if s.mountFrom != "" {
		list = append(list, "repository:"+s.mountFrom+":pull")
	}
	return list
}

// path returns the path of something in a repository, such as ("manifests", "v1").
func (e endpoint) path(kind, reference string) string {
	return "/v2/" + e.repository + "/" + kind + "/" + reference
}

// reference returns the part of a reference that manifests are asked for by. The digest decides where there is one.
func reference(r ref.Ref) string {
	if d := r.Digest(); d != "" {
		return d.String()
	}
	return r.Tag()
}
