package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"

	"slipway/internal/oci/registry/serve"
)

func newRegistry(e env) *cobra.Command {
	cmd := group("registry", "Serve images from a folder", newRegistryServe(e))
	cmd.GroupID = groupMachine
	return cmd
}

func newRegistryServe(e env) *cobra.Command {
	var addr, dir string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve an OCI registry until interrupted",
		Long: `Serve an OCI registry on a folder until interrupted.

It is for this machine and for tests: it knows no users, so whoever reaches the
address may push. The address it listens on is printed on stderr; port 0 picks a
free one.`,
		Example: "  slipway registry serve --addr 127.0.0.1:5000 --dir ./registry",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				home, err := e.home()
				if err != nil {
					return err
				}
				dir = filepath.Join(home, "registry")
			}
			return serveRegistry(cmd.Context(), e, addr, dir)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:5000", "listen on `HOST:PORT`")
	cmd.Flags().StringVar(&dir, "dir", "", "keep images in `DIR` (default: registry in slipway's home folder)")
	return cmd
}

func serveRegistry(ctx context.Context, e env, addr, dir string) error {
	logger := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	registry, err := serve.New(serve.Options{Dir: dir, Logger: logger})
	if err != nil {
		return err
	}
	// Requests outlive the interrupt by the seconds that Stop gives them.
	if err := registry.Start(context.WithoutCancel(ctx), addr); err != nil {
		return errors.Join(err, registry.Stop())
	}
	_, _ = fmt.Fprintf(e.stderr, "slipway: listening on %s\n", registry.Addr())
	if !loopback(registry.Addr()) {
		tell(e.stderr, "warning", "whoever reaches this address may push to it: the registry knows no users")
	}
	<-ctx.Done()
	return registry.Stop()
}

// loopback says whether only this machine can reach an address that is listened on.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && net.ParseIP(host).IsLoopback()
}
