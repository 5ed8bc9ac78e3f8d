package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/docker/go-units"

	"slipway/internal/build"
	"slipway/internal/build/garbage"
	"slipway/internal/build/mount"
	"slipway/internal/disk"
	"slipway/internal/errs"
	"slipway/internal/tempfile"
)

// Default bounds, in parts of the file system but not more than so many bytes. See docs/decisions/0015.
const (
	maxUsedPart, maxUsedMost = 4, 100 << 30
	minFreePart, minFreeMost = 20, 10 << 30
)

// slack is which part of a bound is removed beyond it, so that not every build that follows has to remove a little.
const slack = 10

// maxUsed is how much the home folder may keep. ok is false when there is no bound.
func (a *App) maxUsed(s disk.Space) (n int64, ok bool) {
	return a.opts.Config.GC.MaxUsed.Of(s.Total, min(s.Total/maxUsedPart, maxUsedMost))
}

// minFree is how much is to stay free.
func (a *App) minFree(s disk.Space) (n int64, ok bool) {
	return a.opts.Config.GC.MinFree.Of(s.Total, min(s.Total/minFreePart, minFreeMost))
}

const (
	// watchPause is how often work looks at what is free: often enough for a disk to write no more than a part of
	// what is to stay free in between.
	watchPause = 250 * time.Millisecond
	// fullPause is how long it waits when there was nothing to remove.
	fullPause = 10 * time.Second
)

// watch makes room while the work goes on, until unwatch.
func (w *work) watch() {
	ctx, cancel := context.WithCancelCause(w.tidying)
	done := make(chan struct{})
	w.unwatch = func() {
		cancel(errs.Canceled)
		<-done
	}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			pause := watchPause
			short, freed, err := w.makeRoom(ctx)
			if untilDone(ctx, err) != nil {
				w.warn("make room", err)
			}
			if short && freed == 0 {
				pause = fullPause
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}()
}

// makeRoom removes what nobody uses when too little is free. It says whether that is so, and how much it freed.
func (w *work) makeRoom(ctx context.Context) (short bool, freed int64, err error) {
	space, err := disk.SpaceOf(w.opts.Home)
	if err != nil {
		return false, 0, err
	}
	enough, bounded := w.minFree(space)
	if !bounded || space.Free >= enough {
		return false, 0, nil
	}
	report, err := w.collect(ctx, func([]garbage.Store) (garbage.Request, error) {
		return garbage.Request{Free: enough - space.Free + enough/slack}, nil
	})
	if report.Freed > 0 {
		w.note(fmt.Sprintf("little is free in the file system of %s: removed %s that was not in use", w.opts.Home, size(report.Freed)))
	}
	return true, report.Freed, err
}

// collect removes what request says, unless another process is removing something.
func (a *App) collect(ctx context.Context, request func([]garbage.Store) (garbage.Request, error)) (report garbage.Report, err error) {
	lock, err := locks(a.home(locksDir)).try(collecting())
	if errors.Is(err, errs.Conflict) {
		return report, nil
	}
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	realms, err := a.realms()
	if err != nil {
		return report, err
	}
	stores, err := a.stores(ctx, realms, nil, false)
	if err != nil {
		return report, err
	}
	r, err := request(stores)
	if err != nil || r.DryRun {
		return report, err
	}
	report, err = garbage.Collect(ctx, stores, r)
	if len(report.Removed) > 0 {
		err = errors.Join(err, a.settle(ctx, realms))
	}
	return report, err
}

// measured is what was found when somebody last looked at all that is kept, which takes too long to be done each time.
type measured struct {
	Kept int64     `json:"kept"` // bytes
	Free int64     `json:"free"` // in the file system, then
	At   time.Time `json:"at"`
}

const (
	measuredFile = "kept.json"
	// measuredFor is how long it holds, whatever the file system says: what others remove hides what builds have added.
	measuredFor = time.Hour
)

// atMost is what can be kept now, if all that the file system has filled by since is ours. ok is false when that is not
// known.
func (m measured) atMost(free int64, now time.Time) (n int64, ok bool) {
	age := now.Sub(m.At)
	return m.Kept + max(m.Free-free, 0), age >= 0 && age < measuredFor
}

// bound removes what was not used for longest when more is kept than may be.
func (w *work) bound(ctx context.Context) error {
	space, err := disk.SpaceOf(w.opts.Home)
	if err != nil {
		return err
	}
	most, bounded := w.maxUsed(space)
	if !bounded {
		return nil
	}
	if n, ok := w.measured().atMost(space.Free, w.opts.Now()); ok && n <= most {
		return nil
	}
	var kept int64
	report, err := w.collect(ctx, func(stores []garbage.Store) (garbage.Request, error) {
		items, err := garbage.List(ctx, stores)
		for _, i := range items {
			kept += i.Size
		}
		return garbage.Request{Keep: most - most/slack, DryRun: kept <= most}, err
	})
	if report.Freed > 0 {
		w.note(fmt.Sprintf("%s were kept, more than %s: removed %s that was not used for longest", size(kept), size(most), size(report.Freed)))
	}
	if err != nil || kept == 0 { // nothing, or another process is looking
		return err
	}
	return w.measure(measured{Kept: kept - report.Freed, Free: space.Free + report.Freed, At: w.opts.Now()})
}

// measured returns what was measured last, or the zero value when that cannot be read.
func (w *work) measured() (m measured) {
	data, err := os.ReadFile(w.home(measuredFile))
	if err == nil && json.Unmarshal(data, &m) != nil {
		return measured{}
	}
	return m
}

func (w *work) measure(m measured) (err error) {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp, err := tempfile.Create(w.opts.Home, measuredPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }()
	if _, err = tmp.Write(data); err == nil {
		err = os.Rename(tmp.Name(), w.home(measuredFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// measuredPrefix begins the name of a measurement that is being written.
const measuredPrefix = ".kept-"

// boundMounts removes cache mounts that are larger than one may be, and when all together are, those that were not used
// for longest. It looks only when this work has used some, for they only grow by being used.
func (w *work) boundMounts(ctx context.Context) error {
	if len(w.mounts.Used()) == 0 {
		return nil
	}
	space, err := disk.SpaceOf(w.opts.Home)
	if err != nil {
		return err
	}
	all := min(space.Total/maxUsedPart, maxUsedMost)
	if n, ok := w.maxUsed(space); ok {
		all = n
	}
	gc := w.opts.Config.GC
	one, oneBounded := gc.MaxCacheMount.Of(space.Total, all/4)
	together, allBounded := gc.MaxCacheMounts.Of(space.Total, all/2)
	usage, err := w.mounts.Usage(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(usage, func(a, b mount.Usage) int { return b.Used.Compare(a.Used) })
	var kept int64
	for _, u := range usage {
		tooLarge := oneBounded && u.Size > one
		if !tooLarge && (!allBounded || kept+u.Size <= together) {
			kept += u.Size
			continue
		}
		err := w.mounts.Remove(u.Name)
		if errors.Is(err, errs.Conflict) || errors.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		why := fmt.Sprintf("more than the %s of all cache mounts with those used since (gc.maxCacheMounts)", size(together))
		if tooLarge {
			why = fmt.Sprintf("more than the %s of one (gc.maxCacheMount)", size(one))
		}
		w.note(fmt.Sprintf("removed cache mount %s, which took %s, %s", cmp.Or(u.ID, u.Name), size(u.Size), why))
	}
	return untilDone(ctx, w.mounts.Sweep(ctx))
}

func (w *work) note(text string) {
	w.events(build.Event{Kind: build.Note, Time: w.opts.Now(), Text: text})
}

func size(n int64) string { return units.BytesSize(float64(n)) }

// recoverMeasured removes what a process that died while it wrote a measurement left.
func (a *App) recoverMeasured() error {
	_, err := tempfile.Recover(a.opts.Home, measuredPrefix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
