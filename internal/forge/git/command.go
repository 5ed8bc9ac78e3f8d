package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
)

// command runs git. The value is copied to change what it runs on.
type command struct {
	env    []string
	dir    string
	secret string // of the address, to keep out of messages
}

// newCommand cleans the environment: a variable of a git that started us, a hook say, must not redirect ours.
func newCommand(location string, env []string) command {
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		switch name {
		case "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE":
			return true
		default:
			return false
		}
	})
	c := command{env: append(env, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")}
	if u, err := url.Parse(location); err == nil && u.User != nil {
		c.secret = u.User.String()
	}
	return c
}

func (c command) in(dir string) command {
	c.dir = dir
	return c
}

// of runs git on a git folder, wherever the work tree is.
func (c command) of(gitDir string) command { return c.with("GIT_DIR=" + gitDir).in(gitDir) }

func (c command) with(env ...string) command {
	c.env = slices.Concat(c.env, env)
	return c
}

// exitError is git's own verdict. It is not an *exec.ExitError: that would look like the failure of a user's command.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func isExit(err error) bool {
	_, ok := errors.AsType[*exitError](err)
	return ok
}

// output runs git and returns what it prints, without the line break at the end.
func (c command) output(ctx context.Context, args ...string) (string, error) {
	out, err := c.verbatim(ctx, args...)
	return strings.TrimSuffix(out, "\n"), err
}

// verbatim runs git and returns what it prints.
func (c command) verbatim(ctx context.Context, args ...string) (string, error) {
	settings := []string{
		"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
		"-c", "protocol.ext.allow=never", "-c", "core.sparseCheckout=false", "-c", "advice.detachedHead=false", "-c", "gc.autoDetach=false",
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", append(settings, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("git %s: %w", args[0], context.Cause(ctx))
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", errs.Hint(errors.New("the program git is not installed"), "apt-get install git")
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", c.verdict(args[0], exit.ExitCode(), stderr.String())
	}
	return "", fmt.Errorf("git %s: %w", args[0], err)
}

// verdict turns what git wrote into an error: the last fatal line says why.
func (c command) verdict(verb string, code int, stderr string) error {
	text := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if fatal, ok := strings.CutPrefix(line, "fatal: "); ok || text == "" {
			text = fatal
		}
	}
	if text == "" {
		text = fmt.Sprintf("exit status %d", code)
	}
	if c.secret != "" {
		text = strings.ReplaceAll(text, c.secret, "***")
	}
	err := error(&exitError{code: code, text: "git " + verb + ": " + text})
	switch {
	case contains(stderr, "Authentication failed", "could not read Username", "Permission denied", "terminal prompts disabled", "403"):
		return errs.Hint(errs.Mark(err, errs.Denied), "give git credentials for it: git credential, an SSH key, or https://TOKEN@HOST/…")
	case contains(stderr, "Could not resolve host", "unable to access", "Connection refused", "Connection timed out"):
		return errs.Mark(err, errs.Unavailable)
	case contains(stderr, "dubious ownership"):
		return errs.Hint(err, "git config --global --add safe.directory DIR says that you trust it")
	default:
		return err
	}
}

func contains(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(s string) bool { return strings.Contains(text, s) })
}

// redact hides the credentials of an address, for messages.
func redact(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.User == nil || u.Scheme == "" {
		return location
	}
	u.User = url.User("***")
	return strings.Replace(u.String(), "%2A%2A%2A", "***", 1)
}

// withoutUser drops the credentials of an http address. The user of an ssh address is part of it.
func withoutUser(location string) string {
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(u.Scheme, "http") {
		return location
	}
	u.User = nil
	return u.String()
}
