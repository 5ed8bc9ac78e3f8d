package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
	"slipway/internal/errs"
)

func newAccelerate(e env) *cobra.Command {
	var (
		r      app.Accelerate
		word   string
		words  config.Words
		mode   progress.Mode
		result format
	)
	cmd := &cobra.Command{
		Use:   "accelerate [flags] REF",
		Short: "Convert an image so that it need not be fetched whole",
		Long: `Convert an image so that it need not be fetched whole before a container starts.

The image stays as it is. The accelerated one goes beside it, under the tag with
"_accelerated" at its end, and names it as its subject; standard output gets its
reference. Layers that were converted before are not converted again. Of an index,
every image is converted.

estargz is for containerd with the stargz snapshotter, zstdchunked for podman, buildah
and CRI-O, which fetch only what changed since the last version; both are ordinary
images for all other runtimes. overlaybd is for containerd with the overlaybd snapshotter
and of no use to others: the image becomes a block device, compressed with lz4 or, for a
third less, zstd. docs/acceleration.md says how to switch them on.`,
		Example: `  slipway accelerate 127.0.0.1:5000/app:v1
  slipway accelerate --format estargz:9 --tag 127.0.0.1:5000/app:v1-lazy 127.0.0.1:5000/app:v1
  slipway accelerate --format overlaybd:zstd 127.0.0.1:5000/app:v1`,
		GroupID: groupBuild,
		Args:    arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Image = args[0]
			if r.Format, err = parseAcceleration("--format", word); err != nil {
				return err
			}
			return runAccelerate(cmd.Context(), e, r, words, mode, result)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&word, "format", "estargz", "convert layers to `"+strings.Join(app.AccelerationFormats(), "|")+"[:LEVEL|ALGORITHM]`")
	flags.StringVar(&r.Tag, "tag", "", "push the result to `REF` (default: the image's tag with "+app.AcceleratedSuffix+")")
	registryFlags(flags, &words)
	progressFlag(flags, &mode)
	outputFlag(flags, &result)
	return cmd
}

func runAccelerate(ctx context.Context, e env, r app.Accelerate, words config.Words, mode progress.Mode, result format) error {
	a, err := openApp(e, words)
	if err != nil {
		return err
	}
	show, err := e.display(mode)
	if err != nil {
		return err
	}
	r.Events = show.Event
	im, err := a.Accelerate(ctx, r)
	if err := errors.Join(err, show.Close()); err != nil {
		return err
	}
	if result == asJSON {
		return printJSON(e.stdout, im)
	}
	return printLine(e, im.Image+"@"+im.Digest.String())
}

// parseAcceleration reads FORMAT[:LEVEL] or FORMAT[:ALGORITHM].
func parseAcceleration(flag, s string) (app.Acceleration, error) {
	var f app.Acceleration
	name, level, hasLevel := strings.Cut(s, ":")
	f.Name = name
	if hasLevel && name == "overlaybd" {
		if f.Algorithm = level; level == "" {
			return f, fmt.Errorf("%s %q: the algorithm is missing: %w", flag, s, errs.Invalid)
		}
	} else if hasLevel {
		n, err := strconv.Atoi(level)
		if err != nil || n <= 0 {
			return f, fmt.Errorf("%s %q: the level is not a number from 1 on: %w", flag, s, errs.Invalid)
		}
		f.Level = n
	}
	if err := f.Validate(); err != nil {
		return f, fmt.Errorf("%s %q: %w", flag, s, err)
	}
	return f, nil
}
