package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
)

// places says how images are named, for the help of commands.
const places = `An image is REF in a registry, oci-layout:DIR[:TAG][@DIGEST] in a folder, or local:NAME
in the local store.`

func newImageCopy(e env) *cobra.Command {
	var (
		words config.Words
		mode  progress.Mode
		out   format
	)
	cmd := &cobra.Command{
		Use:   "copy [flags] FROM TO",
		Short: "Copy an image, all its platforms and its digest, from one place to another",
		Long: `Copy an image from one place to another: the manifest or index as it is, so that its
digest stays, and everything that it leads to, for all platforms. What is there is not
sent; between repositories of one registry nothing is, where the registry allows that.
Standard output gets the copy's name and digest.

` + places,
		Example: `  slipway image copy docker.io/library/alpine:3.20 registry.example.com/mirror/alpine:3.20
  slipway image copy registry.example.com/app:v1 oci-layout:./carried:v1
  slipway image copy local:app:v1 registry.example.com/app:v1`,
		Args: arguments("FROM", "TO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := openApp(e, words)
			if err != nil {
				return err
			}
			show, err := e.display(mode)
			if err != nil {
				return err
			}
			copied, err := a.CopyImage(cmd.Context(), args[0], args[1], show.Event)
			if err := errors.Join(err, show.Close()); err != nil {
				return err
			}
			if out == asJSON {
				return printJSON(e.stdout, copied)
			}
			return printLine(e, copied.To+"@"+copied.Digest.String())
		},
	}
	registryFlags(cmd.Flags(), &words)
	progressFlag(cmd.Flags(), &mode)
	outputFlag(cmd.Flags(), &out)
	return cmd
}

func newImageImport(e env) *cobra.Command {
	var (
		r    app.ImportImages
		mode progress.Mode
		out  format
	)
	cmd := &cobra.Command{
		Use:   "import [flags] FILE [NAME]",
		Short: "Take an archive's images, or files, into the local store",
		Long: `Take the images of an archive into the local store: an OCI archive, what docker save
makes, or a tar of a root file system, which becomes an image of one layer. Archives may be
compressed; - is standard input. Images keep the names that they have in the archive,
unless NAME is given; files need one.

An image from an OCI archive keeps its digest. docker save writes none: its images get one.
'slipway image copy local:NAME REF' pushes what was imported.`,
		Example: `  slipway image import app.tar
  docker save app:v1 | slipway image import - app:v1
  slipway image import rootfs.tar.gz base:v1`,
		Args: arguments("FILE", "[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.File, r.Stdin = args[0], e.stdin
			if len(args) > 1 {
				r.Name = args[1]
			}
			a, err := openApp(e, config.Words{})
			if err != nil {
				return err
			}
			show, err := e.display(mode)
			if err != nil {
				return err
			}
			r.Events = show.Event
			imported, err := a.ImportImages(cmd.Context(), r)
			if err := errors.Join(err, show.Close()); err != nil {
				return err
			}
			if out == asJSON {
				return printJSON(e.stdout, imported)
			}
			for _, im := range imported {
				if err := printLine(e, "local:"+im.Name+"@"+im.Digest.String()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Platform, "platform", "", "say that files are for `OS/ARCH[/VARIANT]` (default: this machine's)")
	progressFlag(cmd.Flags(), &mode)
	outputFlag(cmd.Flags(), &out)
	return cmd
}

func newImageRm(e env) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Aliases: []string{"remove"},
		Short:   "Take names from images in the local store",
		Long: `Take names from images in the local store. What nothing else uses goes when room is
wanted, or with 'slipway cache prune'.`,
		Example: "  slipway image rm app:v1",
		Args:    arguments("NAME…"),
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := openApp(e, config.Words{})
			if err != nil {
				return err
			}
			return a.RemoveImages(args)
		},
	}
}

func newImageLs(e env) *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images that have a name in the local store",
		Long: `List the images that have a name in the local store: those that were built with -t and
neither pushed nor written elsewhere, and those that were imported or copied to local:NAME.`,
		Example: "  slipway image ls\n  slipway image ls --output json",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := openApp(e, config.Words{})
			if err != nil {
				return err
			}
			images, err := a.Images(cmd.Context())
			if err != nil {
				return err
			}
			if out == asJSON {
				return printJSON(e.stdout, images)
			}
			return printImages(e, images)
		},
	}
	outputFlag(cmd.Flags(), &out)
	return cmd
}

func printImages(e env, images []app.StoredImage) error {
	if len(images) == 0 {
		return nil
	}
	return e.table(func(row func(string, ...any)) {
		row("NAME\tDIGEST\tSIZE\tCREATED\n")
		for _, im := range images {
			row("%s\t%s\t%s\t%s\n", im.Name, shortID(im.Digest.String()), bytesSize(im.Size), ago(e.now(), im.Created))
		}
	})
}

func newImageInspect(e env) *cobra.Command {
	var (
		words    config.Words
		platform string
		raw      bool
		out      format
	)
	cmd := &cobra.Command{
		Use:   "inspect [flags] IMAGE",
		Short: "Say what an image is: platforms, layers, config",
		Long: `Say what an image is: its digest, its platforms, and for each of them layers and config.

` + places,
		Example: `  slipway image inspect docker.io/library/alpine:3.20
  slipway image inspect --platform linux/arm64 --output json docker.io/library/alpine:3.20
  slipway image inspect oci-layout:./carried:v1`,
		Args: arguments("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := openApp(e, words)
			if err != nil {
				return err
			}
			im, err := a.InspectImage(cmd.Context(), args[0], platform)
			switch {
			case err != nil:
				return err
			case raw:
				if _, err := e.stdout.Write(im.Raw); err != nil {
					return fmt.Errorf("print the result: %w", err)
				}
				return nil
			case out == asJSON:
				return printJSON(e.stdout, im)
			}
			return printInspected(e, im)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "only the image for `OS/ARCH[/VARIANT]` of an index")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the manifest or index itself, byte for byte")
	registryFlags(cmd.Flags(), &words)
	outputFlag(cmd.Flags(), &out)
	return cmd
}

func printInspected(e env, im *app.InspectedImage) error {
	return e.table(func(row func(string, ...any)) {
		row("image\t%s\n", im.Name)
		row("digest\t%s\n", im.Digest)
		row("type\t%s\n", im.MediaType)
		for i := range im.Images {
			p := &im.Images[i]
			row("\n")
			if p.Platform != "" {
				row("platform\t%s\n", p.Platform)
			}
			if p.Digest != im.Digest {
				row("  digest\t%s\n", p.Digest)
			}
			if p.ArtifactType != "" {
				row("  artifact\t%s\n", p.ArtifactType)
			}
			printConfig(row, p)
			row("  size\t%s in %d layers\n", bytesSize(p.Size), len(p.Layers))
			for _, l := range p.Layers {
				row("  layer\t%s  %s\n", l.Digest, bytesSize(l.Size))
			}
		}
	})
}

func printConfig(row func(string, ...any), p *app.InspectedPlatform) {
	if p.Config == nil {
		return
	}
	c := p.Config.Config
	if p.Config.Created != nil {
		row("  created\t%s\n", p.Config.Created.UTC().Format("2006-01-02 15:04:05Z"))
	}
	list := func(name string, words []string) {
		if len(words) > 0 {
			row("  %s\t%q\n", name, words)
		}
	}
	one := func(name, word string) {
		if word != "" {
			row("  %s\t%s\n", name, progress.Clean(word, 1<<10))
		}
	}
	list("entrypoint", c.Entrypoint)
	list("command", c.Cmd)
	one("directory", c.WorkingDir)
	one("user", c.User)
	list("env", c.Env)
	list("ports", sortedKeys(c.ExposedPorts))
	list("volumes", sortedKeys(c.Volumes))
	for _, k := range sortedKeys(c.Labels) {
		one("label", k+"="+c.Labels[k])
	}
}
