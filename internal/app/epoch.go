package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"slipway/internal/errs"
)

// epochArg is the build argument that says the same as Build.Epoch.
const epochArg = "SOURCE_DATE_EPOCH"

// sourceEpoch is the time that dates the image, and the build's arguments with it among them: Epoch and the argument
// SOURCE_DATE_EPOCH are two ways to say it, of which the first wins.
func (r *Build) sourceEpoch(ctx context.Context, in *inputs) (*time.Time, map[string]string, error) {
	word := cmp.Or(r.Epoch, r.Args[epochArg], "none")
	if word == "none" {
		return nil, r.Args, nil
	}
	if word == "context" {
		var err error
		if word, err = in.time(ctx); err != nil {
			return nil, nil, err
		}
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n < 0 {
		return nil, nil, fmt.Errorf("source date epoch %q: want seconds since 1970, context or none: %w", word, errs.Invalid)
	}
	t := time.Unix(n, 0).UTC()
	args := maps.Clone(r.Args)
	if args == nil {
		args = map[string]string{}
	}
	args[epochArg] = word
	return &t, args, nil
}

// commitTime is the time of the commit that a folder is checked out from, in seconds since 1970.
func commitTime(ctx context.Context, root string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--no-show-signature", "--format=%ct", "HEAD").Output()
	if err == nil {
		return strings.TrimSpace(string(out)), nil
	}
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		line, _, _ := strings.Cut(strings.TrimSpace(string(failed.Stderr)), "\n")
		err = errors.New(line)
	}
	err = fmt.Errorf("source date epoch of the context: the commit of %s: %w", root, errs.Mark(err, errs.Invalid))
	return "", errs.Hint(err, "give the seconds since 1970 instead")
}
