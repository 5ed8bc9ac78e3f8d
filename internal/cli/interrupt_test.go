package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"slipway/internal/errs"
)

// stubborn marks the process that TestInterrupts starts: one that is told to end and does not.
const stubborn = "SLIPWAY_TEST_STUBBORN"

// The first interrupt asks, the second ends the process whatever it is at.
func TestInterrupts(t *testing.T) {
	t.Parallel()
	if os.Getenv(stubborn) != "" {
		ctx, stop := interruptible(context.Background())
		defer stop()
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println(errors.Is(context.Cause(ctx), errs.Canceled))
		select {}
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInterrupts$")
		cmd.Env = append(os.Environ(), stubborn+"=1")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for _, want := range []string{"ready", "true"} {
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("it says %q, want %q", lines.Text(), want)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
		}
		exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
		if !ok || exit.ExitCode() != exitInterrupted {
			t.Errorf("after the second %s: %v, want exit status %d", signal, exit, exitInterrupted)
		}
	}
}
