package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
)

// commandError is a started command that failed: its status is not slipway's.
type commandError struct {
	image string
	code  int
}

func (c *commandError) Error() string { return fmt.Sprintf("run %s: exit status %d", c.image, c.code) }

// ExitCode is the command's status.
func (c *commandError) ExitCode() int { return c.code }

func newImage(e env) *cobra.Command {
	cmd := group("image", "Work with images",
		newImageCopy(e), newImageImport(e), newImageInspect(e), newImageLs(e), newImageRm(e), newImageRun(e))
	cmd.GroupID = groupBuild
	return cmd
}

func newImageRun(e env) *cobra.Command {
	var (
		s       app.StartImage
		words   config.Words
		mode    progress.Mode
		isolate isolateFlag
	)
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND…]",
		Short: "Start an image's command in the sandbox",
		Long: `Start an image's command in the sandbox that builds use, and wait for it.

It is for trying what was built. What the command writes to its files is thrown away.
The image is fetched from its registry; layers that this machine has are not. local:NAME
is one that 'slipway image ls' lists.`,
		Example: `  slipway image run 127.0.0.1:5000/app:v1
  slipway image run --env PORT=9001 127.0.0.1:5000/app:v1
  slipway image run local:app:v1 cat /etc/os-release`,
		Args: arguments("IMAGE", "[COMMAND…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Image, s.Args = args[0], args[1:]
			place, err := isolate.enter(cmd.Context(), e)
			if err != nil {
				return err
			}
			a, err := openApp(e, words, place.apply)
			if err != nil {
				return err
			}
			show, err := e.display(mode)
			if err != nil {
				return err
			}
			place.tell(show.Event, e.now())
			s.Stdin, s.Stdout, s.Stderr, s.Events = e.stdin, e.stdout, e.stderr, show.Event
			code, err := a.StartImage(cmd.Context(), s)
			if err := errors.Join(err, show.Close()); err != nil {
				return err
			}
			if code != 0 {
				return &commandError{image: s.Image, code: code}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the image is the command's
	flags.StringArrayVar(&s.Env, "env", nil, "set `K=V` in the command's environment")
	flags.StringVar(&s.Network, "network", "host", "network of the command: `host|none`")
	isolate.register(flags)
	registryFlags(flags, &words)
	progressFlag(flags, &mode)
	return cmd
}
