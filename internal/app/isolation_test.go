package app_test

import (
	"testing"

	"slipway/internal/isolation"
	"slipway/internal/isolation/isolationtest"
)

// here is where the tests of this process run.
var here isolation.Place

// TestIsolated runs the golden suite, and steps of pipelines, where slipway is not root, and where it is root without namespaces.
func TestIsolated(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	for _, way := range isolationtest.Ways() {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			isolationtest.Run(t, way, "^(TestGolden|TestSteps)$")
		})
	}
}

// exception is a case of the golden suite that does not turn out the same in some way to isolate.
type exception struct {
	why   string
	fails bool // the build ends with an error; otherwise the image is another
}

// exceptions are the cases that cannot be the same here, and why. In each a RUN asks for what the machine does not give.
func exceptions() map[string]exception {
	device := exception{"a user namespace, or a command without CAP_MKNOD, makes no device nodes", true}
	chown := exception{"RUN gives a file to a user who is not in the namespace", true}
	user := exception{"USER is not in the namespace", true}
	network := exception{"chroot has no network of its own", true}
	switch isolationtest.Way() {
	case isolationtest.ManyIDs:
		return map[string]exception{
			"layer-special-files": device,
			"layer-owner-large":   {"RUN gives a file to a user above the 65536 of the namespace", true},
		}
	case isolationtest.OneID:
		return map[string]exception{
			"layer-special-files": device,
			"layer-owner-large":   chown, "layer-metadata-only": chown, "parents-from": chown, "parents-existing-folder": chown,
			"mount-cache-from-mode": chown, "link-folder-below": chown, "copy-from-attributes": chown, "copy-from-chown": chown,
			"copy-file-over-file": chown, "workdir-existing": chown,
			"mount-cache-owner": {"the cache belongs to a user who is not in the namespace", true},
			"mount-user":        user, "mount-tmpfs-mode": user, "from-stage": user, "run-users": user, "run-environment": user,
		}
	case isolationtest.Chroot:
		return map[string]exception{
			"layer-special-files": device,
			"mount-network-none":  network, "run-network-none": network,
			"mount-bind-read-only": {"without mounts nothing is read-only; what is written there is thrown away", false},
			"layer-hard-links":     {"hard links of lower layers stay together, which an overlay breaks", false},
		}
	}
	return nil
}
