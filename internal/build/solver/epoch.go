package solver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
)

// With an epoch, every layer has a date of its own, and it is that of what the layer is made on: of the base image, or
// of the image or stage that files are copied from, and never later than the epoch. The date is in the key of the
// operation. So a layer is the same whichever build made it first, and the next commit, whose epoch is another, still
// finds it (docs/decisions/0011-source-date-epoch.md).

// sourceDateEpoch is the variable that programs take the date of their output from
// (https://reproducible-builds.org/specs/source-date-epoch).
const sourceDateEpoch = "SOURCE_DATE_EPOCH"

// undated is the date of what is made on nothing, and of base images that claim to be older: zip archives, and Python's
// wheels with them, cannot be older than 1980.
const undated = 315532800

// dateOps gives every operation of the plan its date.
func (b *builder) dateOps() {
	if b.req.Epoch == nil {
		return
	}
	b.dates = map[plan.Op]time.Time{}
	for _, s := range b.graph.Stages {
		for _, st := range s.Steps {
			if st.Op != nil {
				b.dates[st.Op] = b.dateOf(s, st.Op)
			}
		}
	}
}

func (b *builder) dateOf(s *plan.Stage, op plan.Op) time.Time {
	c, ok := op.(*plan.Copy)
	switch {
	case ok && c.From.Kind == plan.FromStage:
		return b.stageDate(c.From.Stage)
	case ok && c.From.Kind == plan.FromImage:
		return b.imageDate(c.From.Image)
	case isLinked(op):
		return b.date(nil) // on whatever base it comes to lie
	}
	return b.stageDate(s)
}

func (b *builder) stageDate(s *plan.Stage) time.Time {
	switch s.Base.Kind {
	case plan.FromStage:
		return b.stageDate(s.Base.Stage)
	case plan.FromImage:
		return b.imageDate(s.Base.Image)
	default:
		return b.date(nil)
	}
}

func (b *builder) imageDate(im *plan.Image) time.Time { return b.date(im.Config.Created) }

// date bounds a date by the epoch from above, and from below.
func (b *builder) date(created *time.Time) time.Time {
	t := time.Unix(undated, 0)
	if created != nil && created.After(t) {
		t = created.Truncate(time.Second)
	}
	if t.After(*b.req.Epoch) {
		t = *b.req.Epoch
	}
	return t.UTC()
}

// epochOf is what the files of an operation's layer may not be younger than; nil when there is no epoch.
func (b *builder) epochOf(op plan.Op) *time.Time {
	if t, ok := b.dates[op]; ok {
		return &t
	}
	return nil
}

// epoch is epochOf for the layer of a purpose.
func (b *builder) epoch(why purpose) *time.Time {
	if why.step == nil {
		return nil
	}
	return b.epochOf(why.step.Op)
}

// dateKey is an operation's date as its key has it.
func (b *builder) dateKey(op plan.Op) *int64 {
	t := b.epochOf(op)
	if t == nil {
		return nil
	}
	sec := t.Unix()
	return &sec
}

// made is the time of a folder that an operation makes on its way.
func (b *builder) made(op plan.Op) time.Time {
	if t := b.epochOf(op); t != nil {
		return *t
	}
	return b.created()
}

// recordedAt is when a remembered result was made: with an epoch, whichever build it was, now.
func (b *builder) recordedAt(created time.Time) time.Time {
	if b.req.Epoch != nil {
		return b.created()
	}
	return created
}

// dated shows a tree as an operation may see it. When a file of the build context was checked out is no part of the
// input, though it may be before the operation's date: with an epoch it is that date.
func (b *builder) dated(src tree.Tree, from plan.Source, op plan.Op) tree.Tree {
	t := b.epochOf(op)
	if t == nil || from.Kind != plan.FromContext {
		return src
	}
	return tree.Dated{Tree: src, Time: *t}
}

// exactEpoch says whether a RUN wants the epoch itself: its command names the variable. It then has it in its key, as if
// it stood after an ARG. Every other RUN gets the date of its layer, which is in its key already.
func exactEpoch(op *plan.Run) bool {
	names := func(s string) bool { return strings.Contains(s, sourceDateEpoch) }
	return slices.ContainsFunc(op.Args, names) ||
		slices.ContainsFunc(op.Files, func(f plan.InlineFile) bool { return names(f.Data) })
}

// epochEnv is what a RUN gets to know of the epoch; nothing when there is none, or when an ARG says it.
func (b *builder) epochEnv(op *plan.Run) []string {
	t := b.epochOf(op)
	if t == nil || slices.ContainsFunc(op.Env, func(kv string) bool { return name(kv) == sourceDateEpoch }) {
		return nil
	}
	if exactEpoch(op) {
		t = b.req.Epoch
	}
	return []string{sourceDateEpoch + "=" + strconv.FormatInt(t.Unix(), 10)}
}

// dateFolder brings the times of what a process left to those that the layer will have, so that the next operation sees
// the same whether it runs on this folder or on one unpacked from the layer.
func dateFolder(ctx context.Context, dir string, epoch *time.Time) error {
	if epoch == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return dateFile(p, *epoch)
	})
	if err != nil {
		return fmt.Errorf("date files: %w", err)
	}
	return nil
}

func dateFile(path string, epoch time.Time) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	t := time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
	switch {
	case t.After(epoch):
		t = epoch
	case st.Mtim.Nsec == 0:
		return nil
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.Unix()}}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.EPERM) && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return nil // a whiteout, which has no time in a layer
	}
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}
