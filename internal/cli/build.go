package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/mount/archive"
	"slipway/internal/build/output"
	"slipway/internal/build/solver"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// buildFlags are the flags of `slipway build` as typed.
type buildFlags struct {
	app.Build
	words       config.Words
	isolate     isolateFlag
	mode        progress.Mode
	args        []string
	labels      []string
	annotations []string
	mediaTypes  mediaTypes
	retries     int
	key         string
	provenance  string
	sbom        string
	hosts       []string
	outputs     []string
	secrets     []string
	ssh         []string
	cacheFrom   []string
	cacheTo     []string
	cacheMounts []string
	compression string
	memory      string
	disk        string
	network     string
	digestFile  string
	iidFile     string
	metadata    string
	trace       string
	allow       []string
	cdiDirs     []string
	check       bool
	call        string
	format      format // of what a check finds
}

func newBuild(e env) *cobra.Command {
	f := &buildFlags{}
	cmd := &cobra.Command{
		Use:   "build [flags] CONTEXT",
		Short: "Build a Dockerfile and push the image",
		Long: `Build a Dockerfile and push the image.

CONTEXT is what COPY and ADD take files from: a folder, which is read in place; - for
a tar or a Dockerfile on standard input; a git repository, URL[#REF[:DIR]]; the
http(s) URL of a tar; or an object, s3://BUCKET/KEY. With
--push the image goes to every tag, and standard output gets REF@DIGEST for each;
without, the digest alone. Everything else is on standard error.`,
		Example: `  slipway build -t 127.0.0.1:5000/app:v1 --push .
  slipway build --target test --build-arg VERSION=2 .
  slipway build -t app https://github.com/owner/app.git#main:backend
  tar -c . | slipway build -
  slipway build -o type=oci,dest=app.tar .
  slipway build -o type=local,dest=out --target binaries .
  slipway build --check .`,
		GroupID: groupBuild,
		Args:    arguments("CONTEXT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Context = args[0]
			return runBuild(cmd.Context(), e, f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func (f *buildFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&f.File, "file", "f", "", "read the Dockerfile from `PATH`, - is standard input (default: CONTEXT/Dockerfile, then CONTEXT/Containerfile)")
	flags.StringArrayVarP(&f.Tags, "tag", "t", nil, "name the image `REF`; repeatable")
	flags.BoolVar(&f.Push, "push", false, "push the image to every tag")
	flags.StringArrayVarP(&f.outputs, "output", "o", nil, "also write the image, or its files: `type=oci|docker|layout|local|tar,dest=PATH`; repeatable; dest=- is standard output")
	flags.StringArrayVar(&f.Contexts, "build-context", nil, "let FROM, --from and mounts use `NAME=ADDRESS`: a folder, a git repository, the URL of a tar, docker-image://REF or oci-layout://DIR[:TAG][@DIGEST]; repeatable")
	flags.StringVar(&f.Target, "target", "", "build the stage `STAGE` instead of the last")
	flags.StringArrayVar(&f.args, "build-arg", nil, "set a build argument, `K=V`; K alone takes the environment's value")
	flags.StringArrayVar(&f.labels, "label", nil, "add a label to the image, `K=V`")
	f.shapeFlags(flags)
	flags.StringVar(&f.Platform, "platform", "", "build for `OS/ARCH[/VARIANT][,…]`; several make an index (default: this machine's)")
	flags.BoolVar(&f.NoCache, "no-cache", false, "run every step, whatever the cache knows")
	flags.StringSliceVar(&f.NoCacheFilter, "no-cache-filter", nil, "run every step of `STAGE`, by name or number from 0; repeatable")
	flags.BoolVar(&f.Explain, "explain", false, "say for every step that runs why the cache did not answer it")
	flags.StringArrayVar(&f.cacheFrom, "cache-from", nil, "look results up in a cache outside this machine, `type=registry,ref=REF` or type=local,src=DIR; repeatable")
	flags.StringArrayVar(&f.cacheMounts, "cache-mount", nil, "keep folders of RUN --mount=type=cache outside this machine, too, `type=registry,ref=REPOSITORY` or type=local,dir=DIR, each with id=ID, mode=ro or ignore-error=true if wanted; repeatable")
	flags.StringArrayVar(&f.cacheTo, "cache-to", nil, "keep results in a cache outside this machine, `type=registry,ref=REF[,mode=max][,ttl=168h]`, type=local,dest=DIR or type=inline; repeatable")
	flags.StringVar(&f.CacheDir, "cache-dir", "", "take base images from `DIR`, which 'slipway warm' fills")
	flags.StringVar(&f.compression, "compression", "gzip", "compress layers with `gzip|zstd|none|estargz|zstdchunked[:LEVEL]`; the last two are loaded lazily or in parts, see docs/acceleration.md")
	flags.StringVar(&f.Epoch, "source-date-epoch", "", "date the image `SECONDS` after 1970, so that the same input gives the same digest; context is the commit's time; none leaves times alone (default: $SOURCE_DATE_EPOCH, else none)")
	flags.StringVar(&f.network, "network", "default", "network of RUN: `default|host|none`")
	flags.StringArrayVar(&f.hosts, "add-host", nil, "let RUN reach `HOST:IP` by name")
	flags.StringArrayVar(&f.secrets, "secret", nil, "let RUN --mount=type=secret have `id=ID[,src=FILE|,env=VARIABLE]`; repeatable")
	flags.StringArrayVar(&f.ssh, "ssh", nil, "let RUN --mount=type=ssh use an SSH agent, `default|ID[=SOCKET]` (default: the agent of SSH_AUTH_SOCK)")
	flags.StringArrayVar(&f.allow, "allow", nil, "let the Dockerfile have more of this machine, `security.insecure|device[=NAME[,alias=OTHER]]`; repeatable")
	flags.StringArrayVar(&f.cdiDirs, "cdi-spec-dir", nil, "read the devices for RUN --device from the CDI specs in `DIR`; repeatable (default: /etc/cdi and /var/run/cdi)")
	flags.StringVar(&f.memory, "memory", "", "limit the memory of all RUN processes together to `BYTES`, as 512m or 2g")
	flags.Float64Var(&f.Limits.CPUs, "cpus", 0, "limit RUN processes to `N` cores")
	flags.StringVar(&f.disk, "disk", "", "limit what the build may write to `BYTES`")
	flags.DurationVar(&f.Limits.Time, "timeout", 0, "end the build after `DURATION`, as 15m")
	flags.StringVar(&f.digestFile, "digest-file", "", "write the image's digest to `PATH`")
	flags.StringVar(&f.iidFile, "iidfile", "", "write the digest of the image's config to `PATH`")
	flags.StringVar(&f.metadata, "metadata-file", "", "write what was built to `PATH` as JSON, with buildx's keys")
	flags.StringVar(&f.trace, "trace", "", "write where the time went to `PATH`, in the format of Chrome's trace viewer")
	f.checkFlags(flags)
	f.pushFlags(flags)
	f.trustFlags(flags)
	f.isolate.register(flags)
	registryFlags(flags, &f.words)
	progressFlag(flags, &f.mode)
}

func runBuild(ctx context.Context, e env, f *buildFlags) (err error) {
	checking, err := f.parseCall()
	if err != nil {
		return err
	}
	if err := f.parse(e); err != nil {
		return err
	}
	if checking {
		return runCheck(ctx, e, f)
	}
	place, err := f.isolate.enter(ctx, e)
	if err != nil {
		return err
	}
	a, err := openApp(e, f.words, f.retry, place.apply, func(o *app.Options) { o.DeviceDirs = f.cdiDirs })
	if err != nil {
		return err
	}
	show, err := e.display(f.mode)
	if err != nil {
		return err
	}
	place.tell(show.Event, e.now())
	f.Events = show.Event
	trace := &progress.Trace{}
	if f.trace != "" {
		f.Events = func(ev build.Event) { show.Event(ev); trace.Event(ev) }
	}
	im, err := a.Build(ctx, f.Build)
	if err := errors.Join(err, show.Close(), f.writeTrace(trace)); err != nil {
		return err
	}
	if err := f.writeFiles(im); err != nil {
		return err
	}
	return printImage(e, f, im)
}

// parse turns words into values.
func (f *buildFlags) parse(e env) (err error) {
	f.Stdin = e.stdin
	if f.Args, err = pairs("--build-arg", f.args, e.getenv); err != nil {
		return err
	}
	if _, ok := f.Args["SOURCE_DATE_EPOCH"]; !ok && f.Epoch == "" {
		f.Epoch = e.getenv("SOURCE_DATE_EPOCH")
	}
	if f.Labels, err = pairs("--label", f.labels, nil); err != nil {
		return err
	}
	if err := f.parseShape(); err != nil {
		return err
	}
	if f.Limits.Memory, err = bytesFlag("--memory", f.memory); err != nil {
		return err
	}
	if f.Limits.Disk, err = bytesFlag("--disk", f.disk); err != nil {
		return err
	}
	if f.Limits.CPUs < 0 || f.Limits.Time < 0 {
		return fmt.Errorf("a limit cannot be negative: %w", errs.Invalid)
	}
	if err := f.parseCompression(); err != nil {
		return err
	}
	if f.Network, err = parseNetwork(f.network); err != nil {
		return err
	}
	for _, word := range f.allow {
		if err := f.Allow.Add(word); err != nil {
			return err
		}
	}
	if f.Hosts, err = parseEach(f.hosts, parseHost); err != nil {
		return err
	}
	if f.CacheFrom, err = parseEach(f.cacheFrom, remote.ParseFrom); err != nil {
		return err
	}
	if f.CacheMounts, err = parseEach(f.cacheMounts, archive.Parse); err != nil {
		return err
	}
	if f.CacheTo, err = parseEach(f.cacheTo, remote.ParseTo); err != nil {
		return err
	}
	if f.Secrets, err = parseEach(f.secrets, parseSecret); err != nil {
		return err
	}
	if f.SSH, err = parseEach(f.ssh, parseSSH); err != nil {
		return err
	}
	if err := f.parsePush(e); err != nil {
		return err
	}
	if err := f.parseTrust(); err != nil {
		return err
	}
	return f.parseOutputs(e)
}

func (f *buildFlags) parseOutputs(e env) error {
	streams := 0
	for _, o := range f.outputs {
		out, err := output.Parse(o)
		if err != nil {
			return err
		}
		if out.Stdout = e.stdout; out.Dest == "-" {
			streams++
		}
		f.Outputs = append(f.Outputs, out)
	}
	switch {
	case streams > 1:
		return fmt.Errorf("--output: two outputs cannot both go to standard output: %w", errs.Invalid)
	case streams > 0 && e.stdoutIsTerminal:
		return errs.Hint(fmt.Errorf("--output: standard output is a terminal: %w", errs.Invalid), "redirect it to a file, or give dest=FILE")
	case f.FilesAlone() && (f.digestFile != "" || f.iidFile != ""):
		err := fmt.Errorf("--digest-file and --iidfile: this build makes files and no image: %w", errs.Invalid)
		return errs.Hint(err, "add --push, or an output of type oci, docker or layout")
	}
	return nil
}

// parseEach reads the words of a repeatable flag.
func parseEach[T any](words []string, parse func(string) (T, error)) ([]T, error) {
	var values []T
	for _, w := range words {
		v, err := parse(w)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

// pairs reads K=V words. With a getenv, K alone is K with the environment's value, and left out when that is empty.
func pairs(flag string, words []string, getenv func(string) string) (map[string]string, error) {
	m := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if k == "" || !ok && getenv == nil {
			return nil, fmt.Errorf("%s %q: want KEY=VALUE: %w", flag, w, errs.Invalid)
		}
		if !ok {
			if v = getenv(k); v == "" {
				continue
			}
		}
		m[k] = v
	}
	return m, nil
}

func bytesFlag(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s %q: want a size such as 512m or 2g: %w", flag, s, errs.Invalid)
	}
	return n, nil
}

func parseNetwork(s string) (string, error) {
	switch s {
	case "default", "host", "none":
		return s, nil
	}
	return "", fmt.Errorf("--network %q: want default, host or none: %w", s, errs.Invalid)
}

func parseHost(s string) (solver.Host, error) {
	name, addr, ok := strings.Cut(s, ":")
	if !ok {
		name, addr, ok = strings.Cut(s, "=")
	}
	ip, err := netip.ParseAddr(strings.Trim(addr, "[]"))
	if !ok || err != nil || name == "" {
		return solver.Host{}, fmt.Errorf("--add-host %q: want HOST:IP: %w", s, errs.Invalid)
	}
	return solver.Host{Name: name, Addr: ip.String()}, nil
}

// parseCompression reads ALGORITHM[:LEVEL]. The default is the zero value, which cache keys rely on.
func (f *buildFlags) parseCompression() (err error) {
	name, level, hasLevel := strings.Cut(f.compression, ":")
	if slices.Contains(app.AccelerationFormats(), name) {
		f.Acceleration, err = parseAcceleration("--compression", f.compression)
		return err
	}
	var c layer.Compression
	if name != "gzip" {
		c.Algorithm = name
	}
	if hasLevel {
		n, err := strconv.Atoi(level)
		if err != nil {
			return fmt.Errorf("--compression %q: the level is not a number: %w", f.compression, errs.Invalid)
		}
		c.Level, c.Algorithm = n, name
	}
	if err := c.Validate(); err != nil {
		err = fmt.Errorf("--compression %q: %w", f.compression, errs.Mark(err, errs.Invalid))
		return errs.Hint(err, "there are also the accelerated formats: "+strings.Join(app.AccelerationFormats(), ", "))
	}
	f.Compression = c
	return nil
}

// openApp opens slipway on this user's state.
func openApp(e env, words config.Words, adjust ...func(*app.Options)) (*app.App, error) {
	settings, err := e.settings(words)
	if err != nil {
		return nil, err
	}
	home, err := e.home()
	if err != nil {
		return nil, err
	}
	opts := app.Options{Home: home, Config: settings, Getenv: e.getenv, Now: e.now}
	for _, f := range adjust {
		f(&opts)
	}
	return app.Open(opts)
}

// writeFiles leaves the digests where the flags say.
func (f *buildFlags) writeFiles(im *build.Image) error {
	write := func(file string, data []byte) error {
		if file == "" {
			return nil
		}
		if err := output.ReplaceFile(file, data); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		return nil
	}
	keys, err := f.metadataOf(im)
	if err != nil {
		return err
	}
	metadata, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return errors.Join(
		write(f.digestFile, []byte(im.Manifest.Digest.String())),
		write(f.iidFile, []byte(cmp.Or(im.Config.Digest, im.Manifest.Digest).String())), // an index has no config
		write(f.metadata, append(metadata, '\n')),
	)
}

// writeTrace leaves where the time went, also when the build failed.
func (f *buildFlags) writeTrace(t *progress.Trace) (err error) {
	if f.trace == "" {
		return nil
	}
	file, err := os.Create(f.trace)
	if err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return t.Write(file)
}

// printImage prints the result. An output to standard output is the result itself; files alone have no digest.
func printImage(e env, f *buildFlags, im *build.Image) error {
	toStdout := func(o output.Output) bool { return o.Dest == "-" }
	if f.FilesAlone() || slices.ContainsFunc(f.Outputs, toStdout) {
		return nil
	}
	lines := []string{im.Manifest.Digest.String()}
	if f.Push {
		lines = nil
		for _, t := range f.Tags {
			lines = append(lines, t+"@"+im.Manifest.Digest.String())
		}
	}
	_, err := fmt.Fprintln(e.stdout, strings.Join(lines, "\n"))
	return err
}
