package spec

import (
	"fmt"
	"path"
	"strings"
	"time"

	"slipway/internal/pipeline"
)

// dedicatedTimeout is how long a task with a runnerConfig may run that does not set a timeout.
const dedicatedTimeout = 600 * time.Second

// environment reads runnerConfig. Its absence means the default environment.
func (r *resolver) environment(t *pipeline.Task) pipeline.Environment {
	env := pipeline.DefaultEnvironment()
	r.notYet(t.Data)
	config := mapOrNil(t.Data.Get("runnerConfig"))
	if config == nil {
		return env
	}
	env.Dedicated, env.Origin, env.Timeout = true, t.Data.KeyAt("runnerConfig"), dedicatedTimeout
	r.size(&env, config)
	if n, ok := config.Get("diskSize").Int(); ok {
		env.Disk = n * pipeline.MiB
	}
	if v := config.Get("timeout"); !v.Absent() {
		if n, ok := v.Int(); ok {
			env.Timeout, env.TimeoutOrigin = time.Duration(n)*time.Second, v.Origin
		}
	}
	r.mounts(&env, config.Get("nasConfig"))
	for _, key := range []string{"regionId", "vpcConfig", "logConfig"} {
		if !config.Get(key).Absent() {
			env.Hosted = append(env.Hosted, key)
		}
	}
	return env
}

// size reads cpu and memory. Whichever is absent stays that of the default environment.
func (r *resolver) size(env *pipeline.Environment, config *pipeline.Value) {
	cpu, hasCPU := config.Get("cpu").Float()
	memory, hasMemory := config.Get("memory").Int()
	if hasCPU {
		env.CPUs = cpu
	}
	if hasMemory {
		env.Memory = memory * pipeline.MiB
	}
	if !hasCPU || !hasMemory || cpu <= 0 {
		return
	}
	if ratio := float64(memory) / 1024 / cpu; ratio < 1 || ratio > 4 {
		r.report(config.Get("memory").Origin,
			fmt.Sprintf("memory is %d MB for %v vCPU; it must be from 1 to 4 GB for each vCPU", memory, cpu),
			fmt.Sprintf("from %.0f to %.0f", cpu*1024, cpu*4096))
	}
}

func (r *resolver) mounts(env *pipeline.Environment, nas *pipeline.Value) {
	points := nas.Get("mountPoints")
	if points == nil {
		return
	}
	seen := map[string]bool{}
	for _, point := range points.Items {
		dir, server := point.Get("mountDir"), point.Get("serverAddr")
		if dir.String() == "" || server.String() == "" {
			continue
		}
		m := pipeline.Mount{Dir: path.Clean(dir.Text), Server: server.Text, Origin: server.Origin}
		host, share, ok := strings.Cut(m.Server, ":")
		switch {
		case !path.IsAbs(dir.Text) || m.Dir == "/":
			r.report(dir.Origin, "mountDir must be an absolute path below /", "for example /mnt/image-cache")
		case !ok || host == "" || !strings.HasPrefix(share, "/"):
			r.report(server.Origin, "serverAddr must be SERVER:/PATH", "for example nas.example.com:/cache")
		case seen[m.Dir]:
			r.report(dir.Origin, "a second mount on "+m.Dir, "give each its own mountDir")
		default:
			env.Mounts = append(env.Mounts, m)
		}
		seen[m.Dir] = true
	}
}

// notYet speaks of keys that are understood and do nothing here, so that nobody waits for their effect.
func (r *resolver) notYet(data *pipeline.Value) {
	config := data.Get("runnerConfig")
	if v := config.Get("debugMode"); v.Bool() {
		r.warn(v.Origin, "debugMode has no effect: the environment goes when the task ends", "")
	}
	if v := config.Get("ossMountConfig"); !v.Absent() {
		r.report(config.KeyAt("ossMountConfig"), "OSS mounts are not supported", "use a NAS mount: nasConfig.mountPoints")
	}
	for _, id := range []string{"userId", "groupId"} {
		if v := config.Get("nasConfig", id); !v.Absent() && v.String() != "0" {
			r.warn(v.Origin, id+" has no effect: files in a mapped folder belong to whoever runs slipway", "")
		}
	}
}
