package solver

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"slipway/internal/build"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
)

// defaultHostname is what a RUN sees as the machine's name: the same everywhere, so that it cannot leak into a layer.
const defaultHostname = "slipway"

// hostnameArg is the build argument that gives another.
const hostnameArg = "BUILDKIT_SANDBOX_HOSTNAME"

// hostname is the machine's name inside.
func (b *builder) hostname() string { return cmp.Or(b.req.Plan.Args[hostnameArg], defaultHostname) }

// checkHostname refuses a name that no machine can have.
func (b *builder) checkHostname() error {
	name := b.hostname()
	odd := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.')
	}
	if len(name) > 64 || strings.ContainsFunc(name, odd) {
		return fmt.Errorf("build argument %s=%s: want up to 64 letters, digits, dots and dashes: %w", hostnameArg, name, errs.Invalid)
	}
	return nil
}

// runProcess runs a RUN and leaves what it changed as a layer, which is packed while the build goes on.
func (b *builder) runProcess(ctx context.Context, ev *step, op *plan.Run, why purpose, st *stack) (_ *rung, err error) {
	dirs, err := b.folders(ctx, st)
	if err != nil {
		return nil, err
	}
	draft, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := b.spec(op, draft, dirs)
	if err != nil {
		return nil, err
	}
	if err := b.workdir(draft, dirs, op); err != nil {
		return nil, err
	}
	spec.Env = append(spec.Env, b.epochEnv(op)...)
	held, err := b.mount(ctx, op, spec)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, held.release()) }()
	end := &tail{}
	stdout, stderr := &lines{s: ev, stream: 1, tail: end, hide: b.hide}, &lines{s: ev, stream: 2, tail: end, hide: b.hide}
	spec.Stdout, spec.Stderr = stdout, stderr
	result, err := b.engine.Run(ctx, spec)
	stdout.flush()
	stderr.flush()
	if err != nil {
		return nil, err
	}
	if result.OOM {
		return nil, b.outOfMemory()
	}
	if result.ExitCode != 0 {
		return nil, hintFull(&build.StepError{Code: result.ExitCode, Tail: end.lines}, draft.Dir())
	}
	return b.keepDraft(ctx, draft, why, st)
}

// spec is the sandbox of a RUN.
func (b *builder) spec(op *plan.Run, draft snapshot.Draft, dirs []string) (*sandbox.Spec, error) {
	v := snapshot.NewView(folderLayers(dirs)...)
	who, err := findAccount(v, op.User)
	if err != nil {
		return nil, err
	}
	env := slices.Concat(op.Env, op.HiddenEnv)
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		env = append(env, "HOME="+who.home)
	}
	lower := slices.Clone(dirs)
	slices.Reverse(lower)
	spec := &sandbox.Spec{
		Lower: lower, Stub: b.Stub, Upper: draft.Dir(), Work: draft.Work(),
		Args: op.Args, Env: env, Cwd: op.Dir,
		UID: who.uid, GID: who.gid, Groups: who.groups,
		Hostname: b.hostname(), Network: "host", Group: b.limits, Insecure: op.Insecure,
	}
	if op.Network == plan.NetworkNone {
		spec.Network = "none"
	}
	if err := b.addDevices(op, spec); err != nil {
		return nil, err
	}
	for _, f := range op.Files {
		spec.Files = append(spec.Files, sandbox.File{Target: f.Name, Data: []byte(f.Data), Mode: f.Mode})
	}
	hosts := "127.0.0.1\tlocalhost " + b.hostname() + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, h := range b.req.Hosts {
		hosts += h.Addr + "\t" + h.Name + "\n"
	}
	spec.Files = append(spec.Files, sandbox.File{Target: "/etc/hosts", Data: []byte(hosts), Mode: 0o644})
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("name servers: %w", err)
	}
	spec.Files = append(spec.Files, sandbox.File{Target: "/etc/resolv.conf", Data: resolv, Mode: 0o644})
	return spec, nil
}

// workdir makes the folder that a RUN starts in when nothing has made it: an image may name one that it lacks.
func (b *builder) workdir(draft snapshot.Draft, dirs []string, op *plan.Run) error {
	v := snapshot.NewView(folderLayers(dirs)...)
	c := tree.NewCopy(v, tree.Options{Made: b.made(op)})
	p, err := tree.Resolve(c, op.Dir, true)
	if err != nil {
		return err
	}
	if err := c.MakeDir(p); err != nil || c.Len() == 0 {
		return err
	}
	return layer.Place(b.group.ctx, draft.Dir(), c.Files(), layer.PlaceOptions{})
}

// addDevices gives a sandbox what the devices of a RUN need.
func (b *builder) addDevices(op *plan.Run, spec *sandbox.Spec) error {
	names := b.devices.names[op]
	if len(names) == 0 {
		return nil
	}
	edits, err := b.devices.store.Edits(names, spec.UID, spec.GID)
	if err != nil {
		return err
	}
	spec.Devices, spec.Mounts = edits.Nodes, append(spec.Mounts, edits.Mounts...)
	spec.Groups = append(slices.Clip(spec.Groups), edits.Groups...)
	for _, kv := range edits.Env {
		name, _, _ := strings.Cut(kv, "=")
		spec.Env = slices.DeleteFunc(spec.Env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		spec.Env = append(spec.Env, kv)
	}
	return nil
}

func folderLayers(dirs []string) []snapshot.Layer {
	layers := make([]snapshot.Layer, len(dirs))
	for i, d := range dirs {
		layers[i] = snapshot.Layer{Dir: d}
	}
	return layers
}

// makeDir does a WORKDIR: nothing when the folder is there.
func (b *builder) makeDir(ctx context.Context, op *plan.Mkdir, why purpose, st *stack) (*rung, error) {
	v, err := b.view(ctx, st)
	if err != nil {
		return nil, err
	}
	opts := tree.Options{Made: b.made(op)}
	if op.Owner != "" {
		if opts.Owner, err = b.owner(ctx, st, op.Owner); err != nil {
			return nil, err
		}
	}
	c := tree.NewCopy(v, opts)
	p, err := tree.Resolve(c, op.Path, true)
	if err != nil {
		return nil, err
	}
	if err := c.MakeDir(p); err != nil {
		return nil, err
	}
	return b.leave(ctx, c, why, st)
}

// owner resolves the names of a chown by the files of the stage. As in BuildKit, a name that they lack is root.
func (b *builder) owner(ctx context.Context, st *stack, spec string) (*tree.Owner, error) {
	v, err := b.viewFor(ctx, st, spec)
	if err != nil {
		return nil, err
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	a := account{}
	if id, err := parseID(user); err == nil {
		a.uid, a.gid = id, id
	} else if _, err := a.findUser(v, user); err != nil {
		if err := b.asRoot(st, user, err); err != nil {
			return nil, err
		}
	}
	if hasGroup {
		if a.gid, err = findGroup(v, group); err != nil {
			if err := b.asRoot(st, group, err); err != nil {
				return nil, err
			}
		}
	}
	return &tree.Owner{UID: int(a.uid), GID: int(a.gid)}, nil
}

// asRoot says aloud what BuildKit does silently with a name that the image does not know. Where there is no file to look
// in at all, any name but root is a mistake.
func (b *builder) asRoot(st *stack, name string, err error) error {
	switch {
	case !errors.Is(err, errs.NotFound):
		return err
	case name == "root":
		return nil
	case len(st.rungs) == 0:
		return err
	}
	b.events.warn(err.Error() + "; its files belong to root")
	return nil
}

// viewFor unpacks a stack only when a name has to be looked up in it.
func (b *builder) viewFor(ctx context.Context, st *stack, spec string) (*snapshot.View, error) {
	for part := range strings.SplitSeq(spec, ":") {
		if _, err := parseID(part); err != nil {
			return b.fullView(ctx, st)
		}
	}
	return snapshot.NewView(), nil
}

// copyFiles does a COPY or ADD.
func (b *builder) copyFiles(ctx context.Context, op *plan.Copy, why purpose, parent oci.Digest, st *stack) (*rung, error) {
	src, err := b.source(ctx, op.From)
	if err != nil {
		return nil, err
	}
	alias, hit, err := b.sameContent(ctx, op, src, parent, st, why)
	if err != nil {
		return nil, err
	}
	b.exports.also(why.keys[0], alias)
	if hit != nil {
		return b.reuse(ctx, *hit, why.keys[0])
	}
	v, err := b.view(ctx, st)
	if err != nil {
		return nil, err
	}
	opts := tree.Options{Made: b.made(op)}
	if op.Chown != "" {
		if opts.Owner, err = b.owner(ctx, st, op.Chown); err != nil {
			return nil, err
		}
	}
	if op.Chmod != "" {
		if opts.Chmod, err = tree.ParseChmod(op.Chmod); err != nil {
			return nil, err
		}
	}
	c := tree.NewCopy(v, opts)
	if err := b.addSources(ctx, c, op, b.dated(src, op.From, op)); err != nil {
		return nil, err
	}
	if alias != "" {
		why.keys = append(why.keys, alias)
	}
	return b.leave(ctx, c, why, st)
}

func (b *builder) addSources(ctx context.Context, c *tree.Copy, op *plan.Copy, src tree.Tree) error {
	dest := op.Dest
	if op.DestIsDir && !strings.HasSuffix(dest, "/") {
		dest += "/"
	}
	for i, from := range sources(op) {
		if err := b.addRemotes(ctx, c, op, i, dest); err != nil {
			return err
		}
		matches, filter, err := from.Find(src)
		if err != nil {
			return err
		}
		for _, m := range matches {
			if op.Extract {
				done, err := b.extract(ctx, c, src, m, dest)
				if err != nil {
					return fmt.Errorf("%s: %w", m, err)
				}
				if done {
					continue
				}
			}
			if err := c.Add(src, m, dest, filter); err != nil {
				return err
			}
		}
	}
	if err := b.addRemotes(ctx, c, op, len(op.Sources), dest); err != nil {
		return err
	}
	for _, f := range op.Inline {
		if err := c.Add(tree.NewMemory(f.Name, []byte(f.Data), f.Mode), f.Name, dest, nil); err != nil {
			return err
		}
	}
	return nil
}

// source is the tree that a COPY or a mount reads from.
func (b *builder) source(ctx context.Context, from plan.Source) (tree.Tree, error) {
	switch from.Kind {
	case plan.FromStage, plan.FromImage:
		st, err := b.stackOf(ctx, from)
		if err != nil {
			return nil, err
		}
		return b.fullView(ctx, st)
	case plan.FromContext:
		return b.opened[from.Context].Tree, nil
	default:
		return tree.Empty{}, nil
	}
}

// stackOf is the file system of a stage or an image that something is taken from.
func (b *builder) stackOf(ctx context.Context, from plan.Source) (*stack, error) {
	if from.Kind == plan.FromStage {
		return b.stage(from.Stage).wait(ctx)
	}
	im, err := b.image(ctx, from.Image)
	if err != nil {
		return nil, err
	}
	return b.imageStack(im), nil
}

// sameContent looks a COPY from another stage up by the content it turned out to read: that stage may have run anew
// and still have left the same files. It returns the key to remember the result under, "" for the context, whose
// content is in the operation's own key.
func (b *builder) sameContent(ctx context.Context, op *plan.Copy, src tree.Tree, parent oci.Digest, st *stack, why purpose) (oci.Digest, *build.Record, error) {
	if why.fresh || op.From.Kind == plan.FromContext || len(sources(op)) == 0 {
		return "", nil, nil
	}
	content, err := contentKey(src, sources(op), tree.Plain{})
	if err != nil {
		return "", nil, err
	}
	key, err := b.copyKey(op, parent, content)
	if err != nil {
		return "", nil, err
	}
	hit, err := b.late(ctx, key, st)
	return key, hit, err
}

// reuse takes the result of an equal operation for this one.
func (b *builder) reuse(ctx context.Context, r build.Record, key oci.Digest) (*rung, error) {
	if err := b.Cache.Store(ctx, key, r); err != nil {
		return nil, err
	}
	if r.Empty() {
		return nil, nil
	}
	return b.recorded(ctx, r, key)
}

// extract unpacks a source that is an archive. It says no to anything else, which is then copied as it is.
func (b *builder) extract(ctx context.Context, c *tree.Copy, src tree.Tree, source, dest string) (_ bool, err error) {
	real, err := tree.Resolve(src, source, true)
	if err != nil {
		return false, err
	}
	e, err := src.Lstat(real)
	if err != nil || !e.Mode.IsRegular() {
		return false, nil // Add reports what is wrong with it
	}
	if ok, err := isArchive(src, real); err != nil || !ok {
		return false, err
	}
	r, err := src.Open(real)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	draft, err := b.begin(ctx)
	if err != nil {
		return false, err
	}
	if _, err := layer.Extract(ctx, draft.Dir(), r, layer.ApplyOptions{}); err != nil {
		return false, err
	}
	return true, c.Extract(snapshot.NewView(snapshot.Layer{Dir: draft.Dir()}), path.Clean(dest))
}

// isArchive says whether a file is a tar, compressed or not: whether its first header can be read.
func isArchive(src tree.Tree, p string) (_ bool, err error) {
	r, err := src.Open(p)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	plain, err := layer.Decompress(r)
	if err != nil {
		return false, nil // not compressed in any way that is known: not an archive
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	_, err = tar.NewReader(plain).Next()
	return err == nil, nil
}
