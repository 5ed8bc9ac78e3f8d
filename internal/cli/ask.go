package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"slipway/internal/cli/progress"
	"slipway/internal/task/approval"
)

// person is the terminal that questions are asked on, nil when standard input is none. It is opened anew for each
// question: on the descriptor that this process was given a read could not be ended.
func person() func() (io.ReadWriteCloser, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil
	}
	return func() (io.ReadWriteCloser, error) {
		// Not /dev/tty: in a user namespace this process is in a session of its own, which has no such thing; and it must
		// not come by one, or the terminal's signals would reach it twice.
		return os.OpenFile("/proc/self/fd/0", os.O_RDWR|syscall.O_NOCTTY, 0)
	}
}

// ask returns what puts the question of a need-approval task to the person at the terminal, nil when there is none.
func (e env) ask(show *progress.Display) func(context.Context, approval.Question) (bool, error) {
	if e.person == nil {
		return nil
	}
	return func(ctx context.Context, q approval.Question) (yes bool, err error) {
		t, err := e.person()
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		resume := show.Pause()
		defer resume()
		if d, ok := t.(interface{ SetReadDeadline(at time.Time) error }); ok {
			stop := context.AfterFunc(ctx, func() { _ = d.SetReadDeadline(e.now()) }) // where that is impossible the second Ctrl-C ends it
			defer stop()
		}
		return decide(t, progress.Clean(q.DisplayName, 200))
	}
}

// decide asks until the answer is yes or no.
func decide(t io.ReadWriter, name string) (bool, error) {
	lines := bufio.NewScanner(t)
	for {
		if _, err := fmt.Fprintf(t, "%s waits for approval. Go on? [y/n] ", name); err != nil {
			return false, err
		}
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return false, err
			}
			return false, errors.New("no answer: the input ended")
		}
		switch strings.ToLower(strings.TrimSpace(lines.Text())) {
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		}
	}
}
