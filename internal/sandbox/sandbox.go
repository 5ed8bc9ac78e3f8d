// Package sandbox runs one process on a root file system, cut off from the machine: a RUN instruction, a pipeline step,
// a function. It is slipway's container runtime and uses no other.
//
// A sandbox is described by a Spec and lives exactly as long as one call of Run. Its parts:
//
//   - init is this program again, started under another name in new namespaces. It is process 1 there: it mounts the
//     root, starts the command, reaps orphans, and takes everything along when it ends. Programs that use the package
//     call Init first thing in main.
//   - the root is an overlay of layer folders, mounted by init in its own mount namespace. However the parent ends, no
//     mount and no process stays behind.
//   - a Launcher keeps the next init started and waiting, which is most of the time a sandbox takes.
//   - a Group is a cgroup: limits that one or several runs share.
//
// The command gets what Docker's default gives: the same capabilities, system calls, devices, masked files. It sees no
// file, process, environment or descriptor of slipway. Decision 0002 lists the threats and what answers each.
//
// The package makes no image, no layer and no snapshot: what the command changed is in Spec.Upper afterwards, and
// nothing else is, not even the mount points that had to be made.
package sandbox
