package isolation

import (
	"os"

	"golang.org/x/sys/unix"
)

// privileged tells whether the process may make namespaces and mounts.
func privileged() bool { return os.Geteuid() == 0 && capable(unix.CAP_SYS_ADMIN) }

// canChroot tells whether the process can give a command another root and another user.
func canChroot() bool { return os.Geteuid() == 0 && capable(unix.CAP_SYS_CHROOT) }

func capable(c uint) bool {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capget(&header, &data[0]) == nil && data[c/32].Effective&(1<<(c%32)) != 0
}
