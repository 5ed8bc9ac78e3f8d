package app

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry/acr"
)

// newACR returns what asks Alibaba Cloud for tokens, nil without an access key.
func newACR(opts Options) *acr.Keychain {
	key, ok := acr.FromEnv(opts.Getenv)
	if !ok {
		return nil
	}
	return acr.NewKeychain(acr.Options{
		Key: key, Endpoint: opts.Config.ACREndpoint, Instances: opts.Config.ACRInstances, Now: opts.Now,
	})
}

// useInstance notes that the registry of here is the ACR instance id, and says what that means. Here is where written
// really is: an instance's id is of no use at another registry.
func (a *App) useInstance(written, here ref.Ref, id string) string {
	_, cloud := acr.Parse(here.Registry())
	switch {
	case a.acr == nil:
		return fmt.Sprintf("instanceID %s: the registry's credentials come from the Docker configuration, for %s is not set", id, acr.Variables()[0])
	case !cloud && here.Registry() != written.Registry():
		return fmt.Sprintf("instanceID %s: of no use, for the registry is %s here", id, here.Registry())
	}
	a.acr.Instance(here.Registry(), id)
	return "instanceID " + id + ": the registry's credentials are asked for with the access key"
}

// converts says whether the registry of an image is an ACR instance, once a task names its instance: one that the file names
// itself, or whose address is one of ACR's.
func converts(written, here ref.Ref) bool {
	_, cloud := acr.Parse(here.Registry())
	return cloud || here.Registry() == written.Registry()
}

// network knows which addresses inside Alibaba Cloud's networks can be reached from here.
type network struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex // also while it is tried: others wait for the answer
	known map[string]bool
}

// reachTime is how long an address inside a network may take to answer. Where it can be reached that is milliseconds.
const reachTime = time.Second

// public replaces an ACR address that is reached from inside a VPC alone by the public one of the same registry, when
// this machine is not in there.
func (n *network) public(ctx context.Context) func(ref.Ref) ref.Ref {
	return func(r ref.Ref) ref.Ref {
		a, ok := acr.Parse(r.Registry())
		if !ok || a.Network == "" || n.reaches(ctx, a.Host()) {
			return r
		}
		return r.In(a.Public().Host(), r.Repository())
	}
}

func (n *network) reaches(ctx context.Context, host string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.known[host]; ok {
		return known
	}
	limited, cancel := context.WithTimeoutCause(ctx, reachTime, fmt.Errorf("no answer within %s", reachTime))
	defer cancel()
	conn, err := n.dial(limited, "tcp", net.JoinHostPort(host, "443"))
	if ctx.Err() != nil {
		return true // nobody wants to know any more
	}
	if err == nil {
		_ = conn.Close() // nothing was said on it
	}
	n.known[host] = err == nil
	return err == nil
}
