package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/config"
	"slipway/internal/deploy/control"
	"slipway/internal/errs"
)

func newFunctions(e env) *cobra.Command {
	cmd := group("functions", "Host functions on this machine", newFunctionsServe(e), newFunctionsList(e), newFunctionsVersion(e), newFunctionsAlias(e))
	cmd.GroupID = groupFunctions
	return cmd
}

// functionsPrefix is the path under which functions answer requests.
const functionsPrefix = "/fn/"

func newFunctionsServe(e env) *cobra.Command {
	var addr string
	var words config.Words
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the functions that are deployed here, until interrupted",
		Long: `Run the functions that are deployed on this machine, until interrupted.

A function answers under /fn/NAME/; instances start with requests and stop when none
come. What was deployed comes back when the process is started again. slipway deploy
and the other commands about functions talk to this process.`,
		Example: "  slipway functions serve --addr 127.0.0.1:7081",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveFunctions(cmd.Context(), e, addr, words)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:7081", "listen on `HOST:PORT`; port 0 picks a free one")
	registryFlags(cmd.Flags(), &words)
	return cmd
}

func serveFunctions(ctx context.Context, e env, addr string, words config.Words) (err error) {
	home, err := e.home()
	if err != nil {
		return err
	}
	a, err := openApp(e, words)
	if err != nil {
		return err
	}
	orders, err := control.Listen(app.FunctionsSocket(home))
	if err != nil {
		return err
	}
	h, err := a.OpenFunctions()
	if err != nil {
		return errors.Join(err, orders.Close())
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", addr, err), orders.Close())
	}
	server := &http.Server{Handler: h.Handler(functionsPrefix), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(l) }()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(errs.Canceled)
	go func() { ended <- control.Serve(ctx, orders, h, "http://"+l.Addr().String()+functionsPrefix) }()
	_, _ = fmt.Fprintf(e.stderr, "slipway: functions answer under http://%s%s\n", l.Addr(), functionsPrefix)
	if !loopback(l.Addr().String()) {
		tell(e.stderr, "warning", "whoever reaches this address may call the functions that have an anonymous http trigger")
	}
	running := 2
	select {
	case err = <-ended:
		running--
	case <-ctx.Done():
	}
	stop(errs.Canceled)
	last, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 5*time.Second, errors.New("requests did not end"))
	defer cancel()
	if server.Shutdown(last) != nil { // what does not end by itself is broken off
		err = errors.Join(err, server.Close())
	}
	for range running {
		if e := <-ended; e != nil && !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// target is what takes orders about functions.
func (e env) target() (*control.Client, error) {
	home, err := e.home()
	if err != nil {
		return nil, err
	}
	return app.Functions(home), nil
}

func newFunctionsList(e env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the functions that are deployed here",
		Example: "  slipway functions list",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			target, err := e.target()
			if err != nil {
				return err
			}
			names, err := target.Names(cmd.Context())
			if err != nil {
				return err
			}
			list := []shown{}
			for _, name := range names {
				d, err := target.Info(cmd.Context(), name)
				if err != nil {
					return err
				}
				list = append(list, show(d))
			}
			f := projectFlags{output: output}
			return f.print(e, list)
		},
	}
	outputFlag(cmd.Flags(), &output)
	return cmd
}
