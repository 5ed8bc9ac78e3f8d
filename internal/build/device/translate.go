package device

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/sandbox"
)

// translate reads the OCI spec that devices were injected into. What it cannot say in a sandbox's words it refuses.
func translate(spec *specs.Spec, sources map[string]string) (Edits, error) {
	edits := Edits{Env: spec.Process.Env, Groups: spec.Process.User.AdditionalGids}
	if spec.Hooks != nil {
		return Edits{}, errors.New("its CDI spec asks for hooks to be run, which slipway does not do")
	}
	for _, m := range spec.Mounts {
		mount, err := mountOf(m)
		if err != nil {
			return Edits{}, fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		edits.Mounts = append(edits.Mounts, mount)
	}
	linux := spec.Linux
	if linux == nil {
		return edits, nil
	}
	switch {
	case len(linux.NetDevices) > 0:
		return Edits{}, errors.New("its CDI spec has network devices, which slipway does not move")
	case linux.IntelRdt != nil:
		return Edits{}, errors.New("its CDI spec asks for Intel RDT, which slipway does not set up")
	}
	for _, d := range linux.Devices {
		node, err := nodeOf(d, sources[d.Path])
		if err == nil {
			err = checkAccess(d, linux.Resources)
		}
		if err != nil {
			return Edits{}, fmt.Errorf("node %s: %w", d.Path, err)
		}
		edits.Nodes = append(edits.Nodes, node)
	}
	return edits, nil
}

func nodeOf(d specs.LinuxDevice, source string) (sandbox.Device, error) {
	node := sandbox.Device{Path: d.Path, Source: source, Block: d.Type == "b"}
	if !slices.Contains([]string{"b", "c", "u"}, d.Type) {
		return node, fmt.Errorf("type %q is no device's", d.Type)
	}
	if d.Major < 0 || d.Major > 1<<12-1 || d.Minor < 0 || d.Minor > 1<<20-1 { // as the kernel has them
		return node, fmt.Errorf("%d:%d is no device's number", d.Major, d.Minor)
	}
	node.Major, node.Minor = uint32(d.Major), uint32(d.Minor)
	if d.FileMode != nil {
		node.Mode = d.FileMode.Perm()
	}
	if d.UID != nil {
		node.UID = *d.UID
	}
	if d.GID != nil {
		node.GID = *d.GID
	}
	return node, nil
}

// checkAccess refuses a node of which less than reading and writing is granted: only a device cgroup could see to that,
// and the command would have more than it was given. Making nodes (m) is out of its reach anyway.
func checkAccess(d specs.LinuxDevice, resources *specs.LinuxResources) error {
	if resources == nil {
		return nil
	}
	for _, rule := range resources.Devices {
		if rule.Type != d.Type || rule.Major == nil || *rule.Major != d.Major || rule.Minor == nil || *rule.Minor != d.Minor {
			continue
		}
		if !strings.Contains(rule.Access, "r") || !strings.Contains(rule.Access, "w") {
			return fmt.Errorf("permissions %q: slipway cannot give less than rw", rule.Access)
		}
	}
	return nil
}

// mountOf reads a mount. Of its options those are accepted that a sandbox's mounts have anyway.
func mountOf(m specs.Mount) (sandbox.Mount, error) {
	mount := sandbox.Mount{Type: sandbox.MountBind, Source: m.Source, Target: m.Destination}
	switch m.Type {
	case "", "bind", "none":
	case "tmpfs":
		mount.Type, mount.Source = sandbox.MountTmpfs, ""
	default:
		return mount, fmt.Errorf("type %q is not supported", m.Type)
	}
	for _, o := range m.Options {
		switch o {
		case "ro":
			mount.ReadOnly = true
		case "rw", "bind", "rbind", "nodev", "private", "rprivate", "slave", "rslave":
		case "nosuid":
			mount.NoSUID = true
		case "noexec":
			mount.NoExec = true
		default:
			return mount, fmt.Errorf("option %q is not supported", o)
		}
	}
	return mount, nil
}
