// Package mount lets the kernel mount a block device that is in this process: a file that FUSE shows, a loop device on it,
// and the file system in that. It is how a machine without overlaybd's own daemon can use, and check, an image in its
// format.
//
//	m, err := mount.At(ctx, dir, device, mount.Options{})
//	… m.Root() …
//	err = m.Close()
package mount

import "slipway/internal/oci/accel/overlaybd"

// Device is a block device that can be read anywhere, by several goroutines at once.
type Device = overlaybd.Source

// Options say how a device is mounted. The zero value is good.
type Options struct {
	// Type is the type of the file system. Default: ext4.
	Type string
	// Failed hears of reads of the device that failed; whoever read in the file system gets EIO. Default: nobody does.
	Failed func(error)
}

// Folders in the one that a device is mounted in.
const (
	deviceDir = "device" // where FUSE shows it as a file
	rootDir   = "root"   // the file system
)
