package fetch

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
	hidden []string // what no message may show
}

// git is a command for a repository, which it knows as "slipway", and as "origin" where no other repository is around.
// Address and credentials are in the environment and not among the arguments, which every user of the machine can read.
func (c *Client) git(remote string, secrets map[string][]byte) command {
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	// A variable of a git that started us, a hook say, must not redirect ours.
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, "GIT_") && !strings.HasPrefix(kv, "GIT_SSH") && !strings.HasPrefix(kv, "GIT_SSL") &&
			!strings.HasPrefix(kv, "GIT_ASKPASS") && !strings.HasPrefix(kv, "GIT_CONFIG")
	})
	cmd := command{env: append(env, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")}
	config := [][2]string{
		{"remote.slipway.url", remote},
		{"remote.origin.url", remote}, // submodules are found from origin
		{"core.hooksPath", os.DevNull},
		{"core.fsmonitor", "false"},
		{"protocol.ext.allow", "never"},
		{"advice.detachedHead", "false"},
		{"gc.auto", "0"},
		{"core.logAllRefUpdates", "false"},
	}
	if header := authHeader(remote, secrets); header != "" {
		config = append(config, [2]string{"http." + withoutPassword(remote) + ".extraheader", "Authorization: " + header})
		cmd.hidden = append(cmd.hidden, header)
	}
	cmd.env = append(cmd.env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
	for i, kv := range config {
		cmd.env = append(cmd.env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	if u, err := url.Parse(remote); err == nil && u.User != nil && u.Scheme != "ssh" {
		cmd.hidden = append(cmd.hidden, u.User.String(), u.User.Username())
		if password, ok := u.User.Password(); ok {
			cmd.hidden = append(cmd.hidden, password)
		}
	}
	return cmd
}

func (c command) in(dir string) command {
	c.dir = dir
	return c
}

func (c command) with(env ...string) command {
	c.env = slices.Concat(c.env, env)
	return c
}

// grace is how long git may take to end when it is told to.
const grace = 5 * time.Second

// output runs git and returns what it prints.
func (c command) output(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = grace
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return "", errs.Hint(errors.New("the program git is not installed"), "apt-get install git")
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok { // which would look like the failure of a user's command
		return "", c.verdict(args[0], stderr.String())
	}
	return "", fmt.Errorf("git %s: %w", args[0], err)
}

// verdict turns what git wrote into an error: the last fatal line says why.
func (c command) verdict(verb, stderr string) error {
	text := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if fatal, ok := strings.CutPrefix(line, "fatal: "); ok || text == "" {
			text = fatal
		}
	}
	for _, s := range c.hidden {
		if s != "" {
			text = strings.ReplaceAll(text, s, "xxxxx")
		}
	}
	err := errors.New("git " + verb + ": " + text)
	switch {
	case contains(stderr, "Authentication failed", "could not read Username", "Permission denied", "terminal prompts disabled", "error: 403"):
		return errs.Hint(errs.Mark(err, errs.Denied), "give git credentials for it, or a token with --secret id=GIT_AUTH_TOKEN,env=VARIABLE")
	case contains(stderr, "not found", "does not appear to be a git repository", "couldn't find remote ref"):
		return errs.Mark(err, errs.NotFound)
	case contains(stderr, "Could not resolve host", "unable to access", "Connection refused", "Connection timed out", "early EOF", "RPC failed"):
		return errs.Mark(err, errs.Unavailable)
	}
	return err
}

func contains(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(s string) bool { return strings.Contains(text, s) })
}
