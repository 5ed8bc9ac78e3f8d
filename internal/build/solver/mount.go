package solver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/mount"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
)

// mounted is what the mounts of one RUN need while it runs.
type mounted struct {
	taken  *mount.Taken
	agents []*agent
	drafts []snapshot.Draft
}

func (m *mounted) release() error {
	var all []error
	if m.taken != nil {
		all = append(all, m.taken.Release())
	}
	for _, a := range m.agents {
		all = append(all, a.close())
	}
	for _, d := range m.drafts {
		all = append(all, d.Discard())
	}
	return errors.Join(all...)
}

// mount adds to a sandbox what a RUN's --mount ask for.
func (b *builder) mount(ctx context.Context, op *plan.Run, spec *sandbox.Spec) (_ *mounted, err error) {
	m := &mounted{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.release())
		}
	}()
	caches, err := b.caches(ctx, op, m)
	if err != nil {
		return nil, err
	}
	for i := range op.Mounts {
		want := &op.Mounts[i]
		switch want.Type {
		case plan.MountBind:
			err = b.bind(ctx, op, want, spec, m)
		case plan.MountCache:
			spec.Mounts = append(spec.Mounts, sandbox.Mount{
				Type: sandbox.MountBind, Source: caches[i], Target: want.Target, ReadOnly: want.ReadOnly,
			})
		case plan.MountTmpfs:
			spec.Mounts = append(spec.Mounts, sandbox.Mount{
				Type: sandbox.MountTmpfs, Target: want.Target, ReadOnly: want.ReadOnly, Size: want.Size,
			})
		case plan.MountSecret:
			err = b.secret(want, spec)
		case plan.MountSSH:
			err = b.ssh(ctx, want, spec, m)
		default:
			err = bug("mount type %q", want.Type)
		}
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// bind shows files of the context, a stage or an image. What is written to them goes to a folder that is thrown away.
func (b *builder) bind(ctx context.Context, op *plan.Run, want *plan.Mount, spec *sandbox.Spec, m *mounted) error {
	add := sandbox.Mount{Type: sandbox.MountOverlay, Source: want.Path, Target: want.Target, ReadOnly: want.ReadOnly}
	dirs, err := b.layersOf(ctx, op, want.From, want.Path)
	if err != nil {
		return err
	}
	if want.From.Kind == plan.FromContext {
		add.Source = "/" + placedName
	}
	if len(dirs) == 0 {
		if want.Path != "/" {
			return fmt.Errorf("mount %s: %q: %w", want.Target, want.Path, errs.NotFound)
		}
		add.Type, add.Source = sandbox.MountTmpfs, ""
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		add.Lower = append(add.Lower, dirs[i])
	}
	if !want.ReadOnly && len(dirs) > 0 {
		draft, err := b.begin(ctx)
		if err != nil {
			return err
		}
		m.drafts = append(m.drafts, draft)
		add.Upper, add.Work = draft.Dir(), draft.Work()
	}
	spec.Mounts = append(spec.Mounts, add)
	return nil
}

// layersOf are the folders that hold the files of a RUN's source, bottom first.
func (b *builder) layersOf(ctx context.Context, op *plan.Run, from plan.Source, path string) ([]string, error) {
	switch from.Kind {
	case plan.FromStage, plan.FromImage:
		st, err := b.stackOf(ctx, from)
		if err != nil {
			return nil, err
		}
		return b.folders(ctx, st)
	case plan.FromContext:
		key := fmt.Sprintf("%q %q %v", from.Context, path, b.epochOf(op))
		dir, err := b.placed.start(b.group, key, func() (string, error) { return b.place(b.group.ctx, op, from, path) }).wait(ctx)
		return []string{dir}, err
	default:
		return nil, nil
	}
}

// placedName is what a file or folder of the context is called in the folder that it is placed in.
const placedName = "context"

// place copies a file or folder of the context, once for all RUNs that mount it: without what the ignore file hides,
// with the owner that COPY would give it, and out of reach of whoever changes the context meanwhile.
func (b *builder) place(ctx context.Context, op *plan.Run, from plan.Source, path string) (string, error) {
	src, err := b.source(ctx, from)
	if err != nil {
		return "", err
	}
	src = b.dated(src, from, op)
	c := tree.NewCopy(tree.Empty{}, tree.Options{})
	if path == "/" { // whose mode is the machine's business
		err = c.Add(src, path, "/"+placedName, nil)
	} else {
		err = c.Put(src, path, placedName)
	}
	if err != nil {
		return "", err
	}
	draft, err := b.begin(ctx)
	if err != nil {
		return "", err
	}
	return draft.Dir(), layer.Place(ctx, draft.Dir(), c.Files(), layer.PlaceOptions{})
}

// caches takes the folders of a RUN's cache mounts, all at once. The result has a path in the place of each.
func (b *builder) caches(ctx context.Context, op *plan.Run, m *mounted) (map[int]string, error) {
	var wants []mount.Want
	var at []int
	for i := range op.Mounts {
		c := &op.Mounts[i]
		if c.Type != plan.MountCache {
			continue
		}
		key, err := b.cacheKey(c)
		if err != nil {
			return nil, err
		}
		w := mount.Want{Key: key, ID: c.ID, Sharing: c.Sharing, Mode: c.Mode, UID: c.UID, GID: c.GID}
		if c.From.Kind != plan.FromScratch || c.Path != "/" {
			w.Seed = func(ctx context.Context, path string) error { return b.seed(ctx, c, path) }
		}
		b.archived(&w)
		wants, at = append(wants, w), append(at, i)
	}
	if len(wants) == 0 {
		return nil, nil
	}
	taken, err := b.Mounts.Take(ctx, wants)
	if err != nil {
		return nil, err
	}
	m.taken = taken
	paths := map[int]string{}
	for n, i := range at {
		paths[i] = taken.Paths[n]
		b.mountTaken(taken.Paths[n], wants[n])
	}
	return paths, nil
}

// cacheKey tells cache folders apart: by their id, and by what they begin as.
func (b *builder) cacheKey(c *plan.Mount) (oci.Digest, error) {
	seed, err := b.mountKey(c)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(struct {
		Namespace, ID, Seed, Path string
		Mode                      uint32
		UID, GID                  int
	}{b.req.Plan.Args["BUILDKIT_CACHE_MOUNT_NS"], c.ID, seed, c.Path, uint32(c.Mode), c.UID, c.GID})
	if err != nil {
		return "", fmt.Errorf("key of cache mount %s: %w", c.ID, err)
	}
	return digest.FromBytes(data), nil
}

// seed makes a new cache folder of the files that it is to begin with.
func (b *builder) seed(ctx context.Context, c *plan.Mount, path string) error {
	src, err := b.source(ctx, c.From)
	if err != nil {
		return err
	}
	copied := tree.NewCopy(tree.Empty{}, tree.Options{})
	if err := copied.Put(src, c.Path, filepath.Base(path)); err != nil {
		return err
	}
	return layer.Place(ctx, filepath.Dir(path), copied.Files(), layer.PlaceOptions{})
}

// secret shows a secret as a file that is not on any disk, or as a variable.
func (b *builder) secret(want *plan.Mount, spec *sandbox.Spec) error {
	data, ok := b.req.Secrets[want.ID]
	if !ok {
		if !want.Required {
			return nil
		}
		return errs.Hint(fmt.Errorf("secret %q, which this RUN requires, was not given: %w", want.ID, errs.Invalid),
			"give it with --secret id="+want.ID+",src=FILE or --secret id="+want.ID+",env=VARIABLE")
	}
	if want.Env != "" {
		spec.Env = mergeEnv(spec.Env, []string{want.Env + "=" + string(data)})
	}
	if want.Target == "" {
		return nil
	}
	mode := want.Mode.Perm()
	if mode == 0 {
		mode = 0o400 // the sandbox's default is open to all
	}
	spec.Files = append(spec.Files, sandbox.File{
		Target: want.Target, Data: data, Mode: mode, UID: uint32(want.UID), GID: uint32(want.GID),
	})
	return nil
}

// ssh shows the socket of an SSH agent.
func (b *builder) ssh(ctx context.Context, want *plan.Mount, spec *sandbox.Spec, m *mounted) error {
	socket, ok := b.req.SSH[want.ID]
	if !ok {
		if !want.Required {
			return nil
		}
		return errs.Hint(fmt.Errorf("SSH agent %q, which this RUN requires, was not given: %w", want.ID, errs.Invalid),
			"give it with --ssh "+want.ID+", or --ssh "+want.ID+"=SOCKET")
	}
	draft, err := b.begin(ctx)
	if err != nil {
		return err
	}
	m.drafts = append(m.drafts, draft)
	a, err := serveAgent(draft.Dir(), socket, want)
	if err != nil {
		return fmt.Errorf("SSH agent %q: %w", want.ID, err)
	}
	m.agents = append(m.agents, a)
	spec.Mounts = append(spec.Mounts, sandbox.Mount{Type: sandbox.MountBind, Source: a.path, Target: want.Target})
	return nil
}

// mountKey stands for what a bind mount shows, or what a cache mount begins as: "" for nothing.
func (b *builder) mountKey(m *plan.Mount) (string, error) {
	if m.Type != plan.MountBind && m.Type != plan.MountCache {
		return "", nil
	}
	switch m.From.Kind {
	case plan.FromStage:
		return "stage " + b.finalKey(m.From.Stage).String(), nil
	case plan.FromImage:
		return "image " + m.From.Image.Digest.String(), nil
	case plan.FromContext:
		return b.readKey(read{m.From.Context, bindSource(m)})
	default:
		return "", nil
	}
}

// bindSource is what a bind mount shows, for contentKey.
func bindSource(m *plan.Mount) []tree.Source {
	return []tree.Source{{Pattern: m.Path, Literal: true}}
}

// runKey is the key of a RUN whose mounts show what shown says, each by its mountKey. What caches and secrets hold is
// no part of it.
func (b *builder) runKey(op *plan.Run, platform string, parent oci.Digest, shown []string) (oci.Digest, error) {
	def := *op
	def.HiddenEnv = nil
	def.Mounts = make([]plan.Mount, len(op.Mounts))
	for i, m := range op.Mounts {
		m.From = plan.Source{} // shown says it
		def.Mounts[i] = m
	}
	if exactEpoch(op) {
		def.Env = slices.Concat(op.Env, b.epochEnv(op))
	}
	return b.newKey(keyed{Parent: parent, Op: "run", Def: def, Shown: shown, Platform: platform, Hosts: b.req.Hosts, Hostname: b.req.Plan.Args[hostnameArg], Epoch: b.dateKey(op)})
}

// shown are the mountKeys of a RUN.
func (b *builder) shown(op *plan.Run) ([]string, error) {
	var keys []string
	for i := range op.Mounts {
		key, err := b.mountKey(&op.Mounts[i])
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", op.Mounts[i].Target, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// runShown runs a RUN, unless an equal one ran on what it mounts.
func (b *builder) runShown(ctx context.Context, ev *step, s *plan.Stage, i int, op *plan.Run, st *stack) (*rung, error) {
	why := b.purpose(s, i)
	alias, hit, err := b.sameShown(ctx, op, oci.FormatPlatform(s.Platform), b.parentOf(s, i), st, why)
	if err != nil {
		return nil, err
	}
	b.exports.also(why.keys[0], alias)
	if hit != nil {
		return b.reuse(ctx, *hit, why.keys[0])
	}
	if alias != "" {
		why.keys = append(why.keys, alias)
	}
	return b.runProcess(ctx, ev, op, why, st)
}

// sameShown looks a RUN up by what the stages that it mounts turned out to hold: they may have run anew and still have
// left the same files. It returns the key to remember the result under besides the RUN's own, "" when there is none.
func (b *builder) sameShown(ctx context.Context, op *plan.Run, platform string, parent oci.Digest, st *stack, why purpose) (oci.Digest, *build.Record, error) {
	keys, err := b.shown(op)
	if err != nil || why.fresh {
		return "", nil, err
	}
	again := false
	for i := range op.Mounts {
		m := &op.Mounts[i]
		if m.Type != plan.MountBind || m.From.Kind != plan.FromStage || m.Path == "/" { // "/" is too much to read
			continue
		}
		src, err := b.source(ctx, m.From)
		if err != nil {
			return "", nil, err
		}
		if keys[i], err = contentKey(src, bindSource(m), tree.Plain{}); err != nil {
			return "", nil, fmt.Errorf("mount %s: %w", m.Target, err)
		}
		again = true
	}
	if !again {
		return "", nil, nil
	}
	key, err := b.runKey(op, platform, parent, keys)
	if err != nil {
		return "", nil, err
	}
	hit, err := b.late(ctx, key, st)
	return key, hit, err
}

// stagesRead are the stages whose files an operation reads, besides the one it is in.
func stagesRead(op plan.Op) []*plan.Stage {
	var list []*plan.Stage
	switch op := op.(type) {
	case *plan.Copy:
		if op.From.Kind == plan.FromStage {
			list = append(list, op.From.Stage)
		}
	case *plan.Run:
		for i := range op.Mounts {
			if op.Mounts[i].From.Kind == plan.FromStage {
				list = append(list, op.Mounts[i].From.Stage)
			}
		}
	}
	return list
}
