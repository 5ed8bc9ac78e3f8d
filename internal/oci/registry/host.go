package registry

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"slipway/internal/oci/ref"
)

const (
	dockerHub      = "docker.io"
	dockerHubHost  = "registry-1.docker.io"
	dockerHubLogin = "index.docker.io"
)

type hostKey struct{ scheme, name string }

// host is what a Client has learned about one host.
type host struct {
	name        string // host[:port] to connect to
	credentials string // the name under which the keychain knows it
	client      *http.Client
	schemes     []string // to try, in order
	uploads     chan struct{}
	tokenTurn   chan struct{} // one token is fetched at a time, so that the next request finds it

	mu        sync.Mutex // guards the fields below
	scheme    string     // the scheme that worked; "" before the first answer
	challenge *challenge
	tokens    map[string]token
	logins    map[string]login // by repository
	chunk     int64            // the size of chunks to send; 0 while it takes streams
	downUntil time.Time        // a mirror that did not answer is left alone until then
}

// endpoint is one place where a repository can be read or written.
type endpoint struct {
	*host
	repository string
	mirror     bool
}

// origin returns the registry that the reference names.
func (c *Client) origin(r ref.Ref) endpoint {
	name, credentials := r.Registry(), r.Registry()
	if name == dockerHub {
		name, credentials = dockerHubHost, dockerHubLogin
	}
	return endpoint{host: c.host("", name, credentials), repository: r.Repository()}
}

// readers returns the places to read the reference from: its registry's mirrors, then the registry.
func (c *Client) readers(r ref.Ref) []endpoint {
	mirrors := c.opts.Mirrors[r.Registry()]
	list := make([]endpoint, 0, len(mirrors)+1)
	for _, mirror := range mirrors {
		scheme, rest, ok := strings.Cut(mirror, "://")
		if !ok {
			scheme, rest = "", mirror
		}
		name, prefix, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
		repository := r.Repository()
		if prefix != "" {
			repository = prefix + "/" + repository
		}
		e := endpoint{host: c.host(scheme, name, name), repository: repository, mirror: true}
		if !e.down() {
			list = append(list, e)
		}
	}
	return append(list, c.origin(r))
}

func (c *Client) host(scheme, name, credentials string) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := hostKey{scheme, name}
	if h := c.hosts[key]; h != nil {
		return h
	}
	h := &host{
		name:        name,
		credentials: credentials,
		client:      c.http,
		schemes:     []string{"https"},
		uploads:     make(chan struct{}, c.opts.Uploads),
		tokenTurn:   make(chan struct{}, 1),
		tokens:      make(map[string]token),
		logins:      make(map[string]login),
	}
	insecure := c.insecure[credentials]
	if insecure {
		h.client = c.httpWeak
	}
	switch {
	case scheme != "":
		h.schemes = []string{scheme}
	case insecure || isLoopback(name):
		// A registry on loopback hardly ever has a certificate: plain HTTP is the guess that costs no extra round trip.
		h.schemes = []string{"http", "https"}
	}
	c.hosts[key] = h
	return h
}

// isLoopback says whether host[:port] is this machine by its name alone; no name is looked up.
func isLoopback(name string) bool {
	host := hostname(name)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// hostname takes the port and the brackets of an IPv6 address away.
func hostname(name string) string {
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !strings.HasSuffix(name, "]") {
		name = name[:i]
	}
	return strings.Trim(name, "[]")
}

// schemesToTry returns the scheme that worked, or the candidates.
func (h *host) schemesToTry() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.scheme != "" {
		return []string{h.scheme}
	}
	return h.schemes
}

func (h *host) settle(scheme string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scheme = scheme
}

const mirrorRest = 30 * time.Second

func (h *host) down() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.downUntil)
}

func (h *host) setDown() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.downUntil = time.Now().Add(mirrorRest)
}

// defaultChunk is the size of a chunk for a registry that refuses streams and does not say how long chunks must be;
// where even that is too large it is divided, down to what any proxy takes.
const (
	defaultChunk  = 8 << 20
	chunkDivisor  = 8
	smallestChunk = defaultChunk / chunkDivisor / chunkDivisor
)

// chunkBytes returns the size of the chunks that the host wants; 0 for a stream.
func (h *host) chunkBytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.chunk
}

// refuseStreams has chunks sent from now on.
func (h *host) refuseStreams() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.chunk == 0 {
		h.chunk = defaultChunk
	}
}

// shrinkChunks has smaller chunks than size sent from now on, if there are any.
func (h *host) shrinkChunks(size int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if size <= smallestChunk {
		return false
	}
	h.chunk = max(smallestChunk, size/chunkDivisor)
	return true
}
