package solver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
)

// parts is what a key was taken over, read back.
type parts struct {
	keyed
	Def json.RawMessage
}

// changes says in which way an operation is not what it was, but for what is below it.
func (x *explainer) changes(op plan.Op, was, is parts) ([]string, error) {
	var list []string
	add := func(changed bool, what string) {
		if changed {
			list = append(list, what)
		}
	}
	def, err := defChanges(op, was.Def, is.Def)
	if err != nil {
		return nil, err
	}
	list = append(list, def...)
	add(was.Op != is.Op, "the instruction changed")
	all := reads(op)
	content, err := x.contentChanges(op, was.Content, is.Content, all)
	if err != nil {
		return nil, err
	}
	list = append(list, content...)
	for i, shown := range is.Shown {
		before := ""
		if i < len(was.Shown) {
			before = was.Shown[i]
		}
		one, err := x.contentChanges(op, before, shown, all)
		if err != nil {
			return nil, err
		}
		list = append(list, one...)
	}
	add(was.Platform != is.Platform, "the platform changed")
	add(!reflect.DeepEqual(was.Compression, is.Compression) || was.Format != is.Format, "--compression changed")
	add(!reflect.DeepEqual(was.Epoch, is.Epoch), "--source-date-epoch changed")
	add(was.Hostname != is.Hostname, "the host's name changed")
	add(!slices.Equal(was.Hosts, is.Hosts), "--add-host changed")
	add(was.Version != is.Version, "slipway makes layers in another way than it did")
	slices.Sort(list)
	return slices.Compact(list), nil
}

// defChanges compares what an instruction says. Values of variables are not repeated: who set them may not want that.
func defChanges(op plan.Op, was, is json.RawMessage) ([]string, error) {
	if string(was) == string(is) {
		return nil, nil
	}
	if _, ok := op.(*plan.Run); !ok {
		return []string{"the instruction changed"}, nil
	}
	var old, now plan.Run
	if err := errors.Join(json.Unmarshal(was, &old), json.Unmarshal(is, &now)); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	list := envChanges(old.Env, now.Env)
	for what, changed := range map[string]bool{
		"the command changed":    !slices.Equal(old.Args, now.Args) || !slices.Equal(old.Files, now.Files),
		"WORKDIR changed":        old.Dir != now.Dir,
		"USER changed":           old.User != now.User,
		"the network changed":    old.Network != now.Network,
		"its privileges changed": old.Insecure != now.Insecure,
		"its devices changed":    !slices.Equal(old.Devices, now.Devices),
		"its mounts changed":     !reflect.DeepEqual(old.Mounts, now.Mounts),
	} {
		if changed {
			list = append(list, what)
		}
	}
	if len(list) == 0 {
		list = append(list, "the instruction changed")
	}
	slices.Sort(list)
	return list, nil
}

// envChanges names the arguments and variables that differ.
func envChanges(was, is []string) []string {
	old, now := variables(was), variables(is)
	var list []string
	for _, k := range slices.Sorted(maps.Keys(now)) {
		if v, ok := old[k]; !ok {
			list = append(list, "variable "+k+" is new")
		} else if v != now[k] {
			list = append(list, "variable "+k+" changed")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(old)) {
		if _, ok := now[k]; !ok {
			list = append(list, "variable "+k+" is gone")
		}
	}
	return list
}

func variables(env []string) map[string]string {
	m := make(map[string]string, len(env))
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

// contentChanges says how what an operation reads differs: see sourceKey.
func (x *explainer) contentChanges(op plan.Op, was, is string, all []read) ([]string, error) {
	if was == is {
		return nil, nil
	}
	kind, id, _ := strings.Cut(is, " ")
	switch kind {
	case "stage":
		for _, s := range stagesRead(op) {
			if x.b.finalKey(s).String() == id {
				return []string{"stage " + stageID(s) + " changed"}, nil
			}
		}
	case "image":
		return []string{"the image that it reads changed to " + id}, nil
	case "content":
		var list []string
		for _, from := range all {
			files, err := x.fileChanges(from)
			if err != nil {
				return nil, err
			}
			list = append(list, files...)
		}
		if len(list) > 0 {
			return []string{shorten(list)}, nil
		}
	}
	return []string{"what it reads changed"}, nil
}

// named is how many files are named before the rest is counted.
const named = 3

func shorten(files []string) string {
	slices.Sort(files)
	files = slices.Compact(files)
	if len(files) > named+1 {
		files = append(files[:named:named], fmt.Sprintf("and %d more files", len(files)-named))
	}
	return strings.Join(files, ", ")
}

// fileChanges compares the context's files below sources with those of the last build.
func (x *explainer) fileChanges(from read) ([]string, error) {
	now, err := x.files(from)
	if err != nil {
		return nil, err
	}
	var list []string
	for p, sum := range now {
		if old, ok := x.old.Files[p]; !ok {
			list = append(list, p+" added")
		} else if old != sum {
			list = append(list, p+" changed")
		}
	}
	for p := range x.old.Files {
		inside, ok := from.unnamed(p)
		if _, still := now[p]; still || !ok || !covers(from.sources, inside) {
			continue
		}
		if _, err := x.b.opened[from.context].Tree.Lstat(inside); errors.Is(err, errs.NotFound) || errors.Is(err, fs.ErrNotExist) {
			list = append(list, p+" removed")
		} else if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// covers says whether a path is one that sources name, or below one.
func covers(from []tree.Source, p string) bool {
	for _, s := range from {
		pattern := strings.Trim(path.Clean("/"+s.Pattern), "/")
		if pattern == "" {
			return true
		}
		names := strings.Split(p, "/")
		wanted := strings.Split(pattern, "/")
		if len(names) < len(wanted) {
			continue
		}
		all := true
		for i, w := range wanted {
			ok, err := path.Match(w, names[i])
			all = all && (ok && err == nil || w == names[i])
		}
		if all {
			return true
		}
	}
	return false
}
