package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/build/garbage"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
)

func newCache(e env) *cobra.Command {
	cmd := group("cache", "See and bound what slipway keeps on this machine", newCacheDu(e), newCachePrune(e))
	cmd.GroupID = groupMachine
	return cmd
}

// cacheUsage is what "slipway cache du --output json" prints.
type cacheUsage struct {
	Total       int64          `json:"total"`       // bytes
	Reclaimable int64          `json:"reclaimable"` // of these, what no process uses
	Items       []garbage.Item `json:"items"`       // the least recently used first
}

func newCacheDu(e env) *cobra.Command {
	var (
		isolate isolateFlag
		verbose bool
		out     format
	)
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show what is kept and what it takes",
		Long: `Show what slipway keeps on this machine, by type:

  image    names of images that were built with -t, or imported
  blob     layers as registries get them, configs, manifests, fetched files
  layer    layers unpacked into folders, and commits checked out
  step     what came of each instruction
  mount    folders of RUN --mount=type=cache
  context  sums of the files of build contexts
  fetched  what servers and registries said

All of it only saves time. Sizes are what files take on the disk.`,
		Example: "  slipway cache du\n  slipway cache du --verbose\n  slipway cache du --output json",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := openPlace(cmd.Context(), e, &isolate)
			if err != nil {
				return err
			}
			items, err := a.Kept(cmd.Context())
			if err != nil {
				return err
			}
			u := cacheUsage{Items: items}
			if items == nil {
				u.Items = []garbage.Item{}
			}
			for _, i := range items {
				u.Total += i.Size
				if !i.InUse {
					u.Reclaimable += i.Size
				}
			}
			if out == asJSON {
				return printJSON(e.stdout, u)
			}
			return printUsage(e, u, verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "a line for each item, the least recently used first")
	isolate.register(cmd.Flags())
	outputFlag(cmd.Flags(), &out)
	return cmd
}

// openPlace opens slipway's state where builds with the same flags work on it: files that they made in a user
// namespace can only be read and removed there.
func openPlace(ctx context.Context, e env, isolate *isolateFlag) (*app.App, error) {
	place, err := isolate.enter(ctx, e)
	if err != nil {
		return nil, err
	}
	return openApp(e, config.Words{}, place.apply)
}

func printUsage(e env, u cacheUsage, verbose bool) error {
	err := e.table(func(row func(string, ...any)) {
		if verbose {
			row("TYPE\tSIZE\tLAST USED\tIN USE\tID\tNAME\n")
			for _, i := range u.Items {
				row("%s\t%s\t%s\t%s\t%s\t%s\n", i.Kind, bytesSize(i.Size), ago(e.now(), i.Used), yes(i.InUse), shortID(i.ID), progress.Clean(i.Name, longName))
			}
			return
		}
		row("TYPE\tITEMS\tSIZE\tIN USE\tLAST USED\n")
		for _, kind := range garbage.Kinds() {
			if s := sum(u.Items, kind); s.items > 0 {
				row("%s\t%d\t%s\t%d\t%s\n", kind, s.items, bytesSize(s.size), s.inUse, ago(e.now(), s.used))
			}
		}
	})
	if err != nil {
		return err
	}
	return printLine(e, fmt.Sprintf("\ntotal %s, of which %s can be removed", bytesSize(u.Total), bytesSize(u.Reclaimable)))
}

// summary is what all items of a kind are together.
type summary struct {
	items, inUse int
	size         int64
	used         time.Time
}

func sum(items []garbage.Item, kind garbage.Kind) summary {
	var s summary
	for _, i := range items {
		if i.Kind != kind {
			continue
		}
		s.items++
		s.size += i.Size
		if i.InUse {
			s.inUse++
		}
		if i.Used.After(s.used) {
			s.used = i.Used
		}
	}
	return s
}

// longName is more than names that slipway has given.
const longName = 256

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

func ago(now, t time.Time) string {
	return strings.ToLower(units.HumanDuration(max(now.Sub(t), 0))) + " ago"
}

// shortID is enough of a digest to tell items apart.
func shortID(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok || len(hex) < 12 {
		return id
	}
	return hex[:12]
}

// cachePruned is what "slipway cache prune --output json" prints.
type cachePruned struct {
	garbage.Report
	DryRun bool `json:"dryRun"`
}

// pruneFlags are those of "slipway cache prune".
type pruneFlags struct {
	all     bool
	keep    string
	filters []string
	dryRun  bool
}

func newCachePrune(e env) *cobra.Command {
	var (
		isolate isolateFlag
		f       pruneFlags
		out     format
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what is kept, the least recently used first",
		Long: `Remove what slipway keeps on this machine, the least recently used first. What some
process uses stays; builds may go on meanwhile.

Without --all, images with a name, cache mounts and the sums of contexts stay: nobody
makes the first two again, and the third takes little. A filter by type names what to
remove instead.`,
		Example: `  slipway cache prune
  slipway cache prune --keep-storage 10g
  slipway cache prune --filter until=168h --filter type=blob --filter type=layer
  slipway cache prune --all --dry-run`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := f.request(e.now())
			if err != nil {
				return usageError(cmd, err)
			}
			a, err := openPlace(cmd.Context(), e, &isolate)
			if err != nil {
				return err
			}
			show, err := e.display(progress.Auto)
			if err != nil {
				return err
			}
			report, err := a.Prune(cmd.Context(), r, show.Event)
			if err := errors.Join(err, show.Close()); err != nil {
				return err
			}
			if out == asJSON {
				return printJSON(e.stdout, cachePruned{report, f.dryRun})
			}
			return printPruned(e, report, f.dryRun)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.all, "all", "a", false, "remove named images, cache mounts and sums of contexts, too")
	flags.StringVar(&f.keep, "keep-storage", "", "stop when no more than `SIZE` is left, such as 10g")
	flags.StringArrayVar(&f.filters, "filter", nil, "remove only `until=DURATION` (not used for so long) or type=TYPE; repeatable")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only say what would be removed")
	isolate.register(flags)
	outputFlag(flags, &out)
	return cmd
}

// request is what the flags ask for.
func (f *pruneFlags) request(now time.Time) (garbage.Request, error) {
	r := garbage.Request{DryRun: f.dryRun}
	if f.keep != "" {
		n, err := units.RAMInBytes(f.keep)
		if err != nil || n < 0 {
			return r, fmt.Errorf("--keep-storage %q: want a size such as 512m or 10g", f.keep)
		}
		r.Keep = n
	}
	for _, word := range f.filters {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "until":
			age, err := time.ParseDuration(value)
			if err != nil || age < 0 {
				return r, fmt.Errorf("--filter %q: want a duration such as 90m or 168h", word)
			}
			if before := now.Add(-age); r.Before.IsZero() || before.Before(r.Before) {
				r.Before = before
			}
		case "type":
			kind := garbage.Kind(value)
			if !slices.Contains(garbage.Kinds(), kind) {
				return r, fmt.Errorf("--filter %q: types are %s", word, kinds())
			}
			r.Only = append(r.Only, kind)
		default:
			return r, fmt.Errorf("--filter %q: want until=DURATION or type=TYPE, with a type of %s", word, kinds())
		}
	}
	if len(r.Only) == 0 && !f.all {
		r.Only = []garbage.Kind{garbage.Blob, garbage.Layer, garbage.Step, garbage.Fetched}
	}
	return r, nil
}

func kinds() string {
	var words []string
	for _, k := range garbage.Kinds() {
		words = append(words, string(k))
	}
	return strings.Join(words, ", ")
}

func printPruned(e env, r garbage.Report, dryRun bool) error {
	if len(r.Removed) > 0 {
		err := e.table(func(row func(string, ...any)) {
			row("TYPE\tITEMS\tSIZE\n")
			for _, kind := range garbage.Kinds() {
				if s := sum(r.Removed, kind); s.items > 0 {
					row("%s\t%d\t%s\n", kind, s.items, bytesSize(s.size))
				}
			}
			row("\n")
		})
		if err != nil {
			return err
		}
	}
	verb := "removed"
	if dryRun {
		verb = "would remove"
	}
	return printLine(e, fmt.Sprintf("%s %s; %s left", verb, bytesSize(r.Freed), bytesSize(r.Left)))
}
