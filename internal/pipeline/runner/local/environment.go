package local

import (
	"cmp"
	"path/filepath"
	"strings"

	"slipway/internal/pipeline"
)

// environment maps and scales what the task asks for.
func (r *Runner) environment(t *pipeline.Task, emit func(pipeline.Event)) pipeline.Environment {
	env, notices := t.Environment.Fit(r.opts.Machine)
	env.Mounts = nil
	for _, m := range t.Environment.Mounts {
		m.Folder = r.folder(m.Server)
		env.Mounts = append(env.Mounts, m)
	}
	env.Network = cmp.Or(r.opts.Networks[env.VPC], r.opts.Networks[env.Region])
	for _, text := range append(notices, r.unmapped(&env)...) {
		if r.once(text) {
			emit(pipeline.Event{Kind: pipeline.Notice, Text: text})
		}
	}
	return env
}

// unmapped says what the file names of the hosted system that is nothing here.
func (r *Runner) unmapped(env *pipeline.Environment) []string {
	var out []string
	say := func(what, setting string) {
		out = append(out, env.Source()+": "+what+" is nothing here; "+setting+" in the configuration says what it shall be")
	}
	switch {
	case env.Network != "":
	case env.VPC != "":
		say("the network "+env.VPC, "mapNetwork")
	case env.Region != "":
		say("the region "+env.Region, "mapNetwork")
	}
	if env.Log != "" && Sink(r.opts.Logs, env.Log) == "" {
		say("the log store "+env.Log, "mapLogs")
	}
	return out
}

// Sink is where the log store PROJECT/LOGSTORE goes: what is said of itself, else of its project; "" for nowhere.
func Sink(logs map[string]string, store string) string {
	project, _, _ := strings.Cut(store, "/")
	return cmp.Or(logs[store], logs[project])
}

func (r *Runner) once(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said[text] {
		return false
	}
	r.said[text] = true
	return true
}

// folder finds the folder that stands for a network folder: its own, or one below that of a folder it lies in. It is
// empty when there is none, and what isNFS knows when the share itself is to be mounted.
func (r *Runner) folder(server string) string {
	host, share, ok := strings.Cut(server, ":")
	if !ok {
		return ""
	}
	share = filepath.Clean("/" + share)
	for above := share; ; above = filepath.Dir(above) {
		for _, key := range []string{host + ":" + above, host + ":" + above + "/"} {
			if dir, ok := r.opts.NAS[key]; ok {
				if _, nfs := isNFS(dir); nfs {
					return dir
				}
				return filepath.Join(dir, strings.TrimPrefix(share, above))
			}
		}
		if above == "/" {
			return ""
		}
	}
}
