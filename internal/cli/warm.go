package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
)

func newWarm(e env) *cobra.Command {
	var (
		w     app.Warm
		words config.Words
		mode  progress.Mode
		args  []string
		out   format
	)
	cmd := &cobra.Command{
		Use:   "warm",
		Short: "Bring base images into a folder that builds take them from",
		Long: `Bring base images into a folder that builds take them from.

The folder is an OCI image layout that several builds on several machines may fill
and read at once. An image that has changed in its registry is fetched anew; layers
that are in the folder are not. 'slipway build --cache-dir DIR' uses it.`,
		Example: `  slipway warm --cache-dir /mnt/image-cache --image docker.io/library/debian:bookworm
  slipway warm --cache-dir /mnt/image-cache --dockerfile Dockerfile`,
		GroupID: groupBuild,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if w.Dir == "" {
				return usageError(cmd, errors.New("--cache-dir is missing"))
			}
			if w.Args, err = pairs("--build-arg", args, e.getenv); err != nil {
				return err
			}
			return runWarm(cmd.Context(), e, w, words, mode, out)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&w.Images, "image", nil, "fetch `REF`; repeatable")
	flags.StringVar(&w.Dockerfile, "dockerfile", "", "fetch the images that the Dockerfile at `PATH` stands on or copies from")
	flags.StringArrayVar(&args, "build-arg", nil, "set a build argument for the Dockerfile, `K=V`")
	flags.StringVar(&w.Dir, "cache-dir", "", "keep images in `DIR`")
	flags.StringVar(&w.Platform, "platform", "", "fetch images for `OS/ARCH[/VARIANT]` (default: this machine's)")
	registryFlags(flags, &words)
	progressFlag(flags, &mode)
	outputFlag(flags, &out)
	return cmd
}

func runWarm(ctx context.Context, e env, w app.Warm, words config.Words, mode progress.Mode, out format) error {
	a, err := openApp(e, words)
	if err != nil {
		return err
	}
	show, err := e.display(mode)
	if err != nil {
		return err
	}
	w.Events = show.Event
	warmed, err := a.Warm(ctx, w)
	if err := errors.Join(err, show.Close()); err != nil {
		return err
	}
	if out == asJSON {
		return printJSON(e.stdout, warmed)
	}
	for _, i := range warmed {
		if _, err := fmt.Fprintf(e.stdout, "%s@%s\n", i.Image, i.Digest); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
	}
	return nil
}
