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
	env.Region = config.Get("regionId").String()
	env.VPC = config.Get("vpcConfig", "vpcId").String()
	if logs := config.Get("logConfig"); logs.Get("project").String() != "" {
		env.Log = logs.Get("project").String() + "/" + logs.Get("logstore").String()
	}
	env.Debug = config.Get("debugMode").Bool()
	env.Owner = owner(config.Get("nasConfig"))
	return env
}

// owner reads whom files in network folders belong to: root, as long as nobody says otherwise.
func owner(nas *pipeline.Value) *pipeline.Owner {
	uid, hasUID := nas.Get("userId").Int()
	gid, hasGID := nas.Get("groupId").Int()
	if !hasUID && !hasGID || uid < 0 || gid < 0 {
		return nil
	}
	return &pipeline.Owner{UID: int(uid), GID: int(gid)}
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
		m := pipeline.Mount{Dir: path.Clean(dir.Text), Server: server.Text, TLS: point.Get("enableTLS").Bool(), Origin: server.Origin}
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

// notYet refuses what is understood and cannot be done.
func (r *resolver) notYet(data *pipeline.Value) {
	config := data.Get("runnerConfig")
	if v := config.Get("ossMountConfig"); !v.Absent() {
		r.report(config.KeyAt("ossMountConfig"), "OSS mounts are not supported", "use a NAS mount: nasConfig.mountPoints")
	}
}
