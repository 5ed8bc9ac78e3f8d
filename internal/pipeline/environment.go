package pipeline

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Sizes in bytes of the units that pipeline files count in.
const (
	MiB = int64(1) << 20
	GiB = int64(1) << 30
)

// Limits bound what a task may use. Zero means no limit.
type Limits struct {
	CPUs    float64
	Memory  int64 // bytes
	Disk    int64 // bytes
	Timeout time.Duration
}

// Environment is what a task runs in: its limits and the network folders it sees.
type Environment struct {
	Limits
	// Dedicated says that the file has a runnerConfig for the task; otherwise this is the default environment.
	Dedicated bool
	Mounts    []Mount
	// Region, VPC and Log name what the hosted system has: runnerConfig's regionId, vpcConfig.vpcId and the PROJECT/LOGSTORE
	// of its logConfig. Empty where the file has none.
	Region, VPC, Log string
	// Network is what commands may reach, "host" or "none", as a runner has found for VPC or Region; "" for the usual.
	Network string
	// Owner is whom files in mounts shall belong to; nil for whoever makes them.
	Owner *Owner
	// Debug asks for the environment to be kept for a while when the task is over.
	Debug bool
	// Origin is the runnerConfig's place; TimeoutOrigin that of its timeout, zero when the file does not set one.
	Origin, TimeoutOrigin Origin
}

// Owner is a user and a group by number.
type Owner struct{ UID, GID int }

// Mount is a network folder that a task sees.
type Mount struct {
	// Dir is the absolute path inside the environment.
	Dir string
	// Server is the NAS address with the path on it, SERVER:/PATH.
	Server string
	// TLS asks for an encrypted connection.
	TLS bool
	// Folder is the folder of this machine that stands for it; empty until a runner has mapped it.
	Folder string
	Origin Origin
}

// None reports whether there is no environment at all: a task that only waits for a person takes nothing of a machine.
func (e *Environment) None() bool { return e.Limits == Limits{} }

// DefaultEnvironment is what a task without runnerConfig gets: 4 vCPU, 8 GB of memory, 10 GB of disk, 15 minutes.
func DefaultEnvironment() Environment {
	return Environment{Limits: Limits{CPUs: 4, Memory: 8 * GiB, Disk: 10 * GiB, Timeout: 15 * time.Minute}}
}

// Source says in words who set the limits.
func (e *Environment) Source() string {
	if !e.Dedicated {
		return "the default environment"
	}
	return "the runnerConfig at " + e.Origin.String()
}

// TimeLimit is the error of a task that ran for longer than its environment allows.
func (e *Environment) TimeLimit() *LimitError {
	source := e.Source()
	if e.Dedicated && e.TimeoutOrigin == (Origin{}) {
		source = "a runnerConfig without timeout (" + e.Origin.String() + ")"
	}
	return &LimitError{Resource: "time", Limit: Duration(e.Timeout), Source: source}
}

// Advice says what to change in the file to raise the limit on resource.
func (e *Environment) Advice(resource string) string {
	key := map[string]string{"time": "timeout", "memory": "memory", "disk": "diskSize"}[resource]
	switch {
	case key == "":
		return "raise the limits in the task's runnerConfig"
	case !e.Dedicated:
		return "give it a runnerConfig with a larger " + key
	default:
		return "raise " + key + " in its runnerConfig"
	}
}

// Machine is what the machine that runs tasks has. Zero means unknown.
type Machine struct {
	CPUs         float64
	Memory, Disk int64 // bytes; Disk is what is free
}

// Fit scales the limits down to what the machine has, and says in notices what it changed.
func (e *Environment) Fit(m Machine) (Environment, []string) {
	out := *e
	var notices []string
	note := func(asked, has string) {
		notices = append(notices, fmt.Sprintf("%s asks for %s, this machine has %s: the task gets that", e.Source(), asked, has))
	}
	if m.CPUs > 0 && e.CPUs > m.CPUs {
		out.CPUs = m.CPUs
		note(number(e.CPUs)+" vCPU", number(m.CPUs))
	}
	if m.Memory > 0 && e.Memory > m.Memory {
		out.Memory = m.Memory
		note(Size(e.Memory)+" of memory", Size(m.Memory))
	}
	if m.Disk > 0 && e.Disk > m.Disk {
		out.Disk = m.Disk
		note(Size(e.Disk)+" of disk", Size(m.Disk)+" free")
	}
	return out, notices
}

// Inside returns where path, absolute inside the environment, is on this machine: below the folder of the mount that
// holds it. ok is false when no mount does.
func (e *Environment) Inside(path string) (m Mount, rest string, ok bool) {
	for _, mount := range e.Mounts {
		below, found := strings.CutPrefix(path, strings.TrimSuffix(mount.Dir, "/"))
		if found && (below == "" || below[0] == '/') && (!ok || len(mount.Dir) > len(m.Dir)) {
			m, rest, ok = mount, strings.TrimPrefix(below, "/"), true
		}
	}
	return m, rest, ok
}

// Size prints bytes as people write them in this field: 8 GB is 8 × 1024³.
func Size(n int64) string {
	switch {
	case n >= GiB:
		return number(float64(n*10/GiB)/10) + " GB"
	case n >= MiB:
		return strconv.FormatInt(n/MiB, 10) + " MB"
	default:
		return strconv.FormatInt(n, 10) + " bytes"
	}
}

// Duration prints d without the zero units that time.Duration.String ends with: 15m, not 15m0s.
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
