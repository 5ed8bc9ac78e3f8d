package solver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"slipway/internal/build/device"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
)

// Grants are what a Dockerfile may ask for only when whoever builds it agrees: more of the machine than a sandbox is for.
type Grants struct {
	// Insecure allows RUN --security=insecure.
	Insecure bool
	// AllDevices allows RUN --device with any device of the machine.
	AllDevices bool
	// Devices are allowed by name, kind or class. The value is the device that the name stands for here, or "".
	Devices map[string]string
}

// Add grants what a word says, as BuildKit spells entitlements: security.insecure, network.host, device,
// device=NAME[,alias=OTHER].
func (g *Grants) Add(word string) error {
	name, rest, hasRest := strings.Cut(word, "=")
	switch {
	case word == "security.insecure":
		g.Insecure = true
	case word == "network.host": // which every RUN has that does not ask for less
	case word == "device":
		g.AllDevices = true
	case name == "device" && hasRest:
		return g.addDevice(rest)
	default:
		err := fmt.Errorf("--allow %q: %w", word, errs.Invalid)
		return errs.Hint(err, "what can be allowed is security.insecure, network.host, device and device=NAME")
	}
	return nil
}

func (g *Grants) addDevice(rest string) error {
	fields, err := csvvalue.Fields(rest, nil)
	if err == nil && (len(fields) == 0 || fields[0] == "") {
		err = errors.New("it names no device")
	}
	if err != nil {
		return fmt.Errorf("--allow device=%s: %w", rest, errs.Mark(err, errs.Invalid))
	}
	name, target := fields[0], ""
	for _, f := range fields[1:] {
		alias, ok := strings.CutPrefix(f, "alias=")
		if !ok || alias == "" {
			return fmt.Errorf("--allow device=%s: %q: want alias=NAME: %w", rest, f, errs.Invalid)
		}
		name, target = alias, fields[0]
	}
	if g.Devices == nil {
		g.Devices = map[string]string{}
	}
	g.Devices[name] = target
	return nil
}

// checkGrants refuses, before anything runs, what the plan asks for and nobody has allowed, and finds its devices.
func (b *builder) checkGrants() error {
	store := device.Open(b.DeviceDirs)
	b.devices = deviceUse{store: store, names: map[*plan.Run][]string{}}
	for _, s := range b.graph.Stages {
		for _, st := range s.Steps {
			op, ok := st.Op.(*plan.Run)
			if !ok {
				continue
			}
			if op.Insecure && !b.req.Allow.Insecure {
				err := errs.Mark(errors.New("--security=insecure is not allowed: the command could do anything to this machine"), errs.Invalid)
				return b.at(st, errs.Hint(err, "if that is what you want, build with --allow security.insecure"))
			}
			for _, d := range op.Devices {
				names, err := b.findDevice(store, st, d)
				if err != nil {
					return b.at(st, err)
				}
				for _, n := range names {
					if !slices.Contains(b.devices.names[op], n) {
						b.devices.names[op] = append(b.devices.names[op], n)
					}
				}
			}
		}
	}
	return nil
}

// findDevice returns the devices that a --device means, all of which the build may use. None when there are none and
// none is required.
func (b *builder) findDevice(store *device.Store, st *plan.Step, d plan.Device) ([]string, error) {
	name, aliased := d.Name, false
	if target := b.req.Allow.Devices[d.Name]; target != "" {
		name, aliased = target, true
	}
	found, err := store.Find(name)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		err := store.Missing(name)
		if d.Required {
			return nil, err
		}
		b.events.warn(b.at(st, err).Error())
		return nil, nil
	}
	if aliased || b.req.Allow.AllDevices {
		return found, nil
	}
	return found, b.mayUse(store, found)
}

// mayUse says whether devices are granted, by the build's request or by the machine's spec.
func (b *builder) mayUse(store *device.Store, found []string) error {
	granted := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(b.req.Allow.Devices)) {
		list, err := store.Find(name)
		if err != nil {
			return err
		}
		for _, n := range list {
			granted[n] = true
		}
	}
	for _, n := range found {
		auto, err := store.AutoAllowed(n)
		if err != nil {
			return err
		}
		if !granted[n] && !auto {
			err := errs.Mark(fmt.Errorf("device %s is not allowed", n), errs.Invalid)
			return errs.Hint(err, "if the build may use it, say so with --allow device="+n)
		}
	}
	return nil
}

// deviceUse says which devices each RUN gets.
type deviceUse struct {
	store *device.Store
	names map[*plan.Run][]string
}
