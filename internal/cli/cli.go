// Package cli is slipway's command line: it turns flags into options, makes one call, and prints what came of it.
//
// Each command lives in a file of its own as newNAME(env) *cobra.Command, listed in newRoot. A command
//
//   - returns errors, never prints them: run does, as "slipway: error: …" and "slipway: hint: …", and derives the exit
//     code from the error's kind (see exitCode);
//   - writes its result, and nothing else, to env.stdout; progress and messages go to env.stderr;
//   - shows an example in its help, and takes --output json where a program may want to read the result.
//
// Everything a command knows of the world is in env, so that tests run commands in parallel with worlds of their own.
package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"slipway/internal/errs"
	"slipway/internal/isolation"
)

// Main runs the command line of this process and returns the status to exit with.
func Main() int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	return run(ctx, process(), os.Args[1:])
}

// run runs one command line in a world.
func run(ctx context.Context, e env, args []string) int {
	root := newRoot(e) //nolint:contextcheck // commands get ctx from cobra when they run
	err := checkCommand(root, args)
	if err == nil {
		root.SetArgs(append([]string{}, args...)) // cobra takes nil for "the process's own"
		err = root.ExecuteContext(ctx)
	}
	if done, ok := errors.AsType[*isolation.Exited](err); ok {
		return done.Code // it has told the user what there was to tell
	}
	if err != nil && errors.Is(context.Cause(ctx), errs.Canceled) {
		err = errInterrupted
	}
	report(e.stderr, err)
	return exitCode(err)
}

// interruptible returns a context that the first SIGINT or SIGTERM cancels, with errs.Canceled as its cause, so that
// what was begun is undone. The second ends the process at once. After stop, signals do what they did before.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-signals:
			cancel(errs.Canceled)
		case <-stopped:
			return
		}
		select {
		case <-signals:
			os.Exit(exitInterrupted)
		case <-stopped:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		<-done
		cancel(nil)
	}
}
