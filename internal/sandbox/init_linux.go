package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Init makes this process the init of a sandbox when it was started as one, and then never returns. Every program that
// uses the package calls it first in main, and tests in TestMain: what runs before it, runs in every sandbox.
func Init() {
	if len(os.Args) == 0 || os.Args[0] != initName {
		return
	}
	// Filter, capabilities and new namespaces are a thread's; the command must be started from the thread that has them.
	runtime.LockOSThread()
	unix.Exit(serve()) // without the hooks of os.Exit: the race detector's waits for a second
}

// serve reads a request, carries it out and reports.
func serve() int {
	in := &initProcess{}
	last := in.run()
	if last == nil {
		return 0 // a spare that was not needed
	}
	if in.root != nil {
		last.Points = in.root.points
	}
	if err := send(last); err != nil {
		fmt.Fprintf(os.Stderr, "%s is started by slipway only: %v\n", initName, err)
		return 1
	}
	return 0
}

// run carries out one request and says how that ended.
func (in *initProcess) run() *report {
	err := hide()
	if err == nil && slices.Contains(os.Args, spareArg) {
		err = in.prepare()
	}
	if err != nil {
		return &report{Failure: newFailure(err)}
	}
	req, err := readRequest()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return &report{Failure: newFailure(err)}
	}
	who, err := credential(req.Spec)
	if err == nil && req.Spec.Chroot {
		return runChroot(req.Spec, who)
	}
	if err == nil {
		err = in.enter(req)
	}
	if err != nil {
		return &report{Failure: newFailure(err)}
	}
	var signals *forwarder
	if req.Forward {
		signals = newForwarder()
	}
	signals.deafen()
	pid, err := start(req.Spec, who)
	if err != nil {
		return &report{Failure: newFailure(err)}
	}
	signals.to(pid)
	ended, err := supervise(pid)
	if err != nil {
		return &report{Failure: newFailure(err)}
	}
	return &report{Exit: ended}
}

// initProcess is the state of init.
type initProcess struct {
	stage *stage  // nil until built
	root  *rootfs // nil until mounted
}

// prepare does ahead what every ordinary sandbox needs.
func (in *initProcess) prepare() error {
	if err := in.build(false); err != nil {
		return err
	}
	// The first use of a type costs package json a tenth of a millisecond.
	data, err := json.Marshal(request{Spec: &Spec{Mounts: make([]Mount, 1), Files: make([]File, 1)}})
	if err == nil {
		err = json.Unmarshal(data, &request{})
	}
	if err == nil {
		_, err = json.Marshal(report{Exit: &exit{}})
	}
	return err
}

// build makes the stage and takes away, for good, what nothing executed from here on may have.
func (in *initProcess) build(insecure bool) (err error) {
	if in.stage, err = newStage(insecure); err != nil || insecure {
		return err
	}
	return dropBounding(dockerCapabilities())
}

// send passes the report to the parent.
func send(r *report) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		n, err := unix.Write(controlFD, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// hide keeps init's memory, descriptors and program from the processes it will be among: a process that is not dumpable
// opens its /proc entries to none without CAP_SYS_PTRACE.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide init: %w", err)
	}
	unix.CloseOnExec(controlFD)
	return closeInherited()
}

// closeInherited closes what slipway was started with and has passed on unknowingly: all that is not close-on-exec, which
// the Go runtime's own descriptors are.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= controlFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			if err := unix.Close(fd); err != nil {
				return fmt.Errorf("close inherited files: %w", err)
			}
		}
	}
	return nil
}

// readRequest takes the request and puts the standard descriptors that came with it in their places.
func readRequest() (*request, error) {
	size := make([]byte, 4)
	rights := make([]byte, unix.CmsgSpace(3*4))
	n, nrights, _, _, err := unix.Recvmsg(controlFD, size, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	if err := takeStdio(rights[:nrights]); err != nil {
		return nil, fmt.Errorf("read request: standard descriptors: %w", err)
	}
	data := make([]byte, binary.LittleEndian.Uint32(size))
	for got := 0; got < len(data); got += n {
		n, err = unix.Read(controlFD, data[got:])
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("read request: %w", err)
		}
		n = max(n, 0)
	}
	req := &request{}
	if err := json.Unmarshal(data, req); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	return req, nil
}

func takeStdio(rights []byte) error {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d control messages: %w", len(messages), errors.Join(err, errs.Invalid))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 3 {
		return fmt.Errorf("%d descriptors: %w", len(fds), errors.Join(err, errs.Invalid))
	}
	for i, fd := range fds {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return err
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// enter makes everything around the command. Afterwards the process is inside the root.
func (in *initProcess) enter(req *request) error {
	spec := req.Spec
	if err := unshare(req); err != nil {
		return err
	}
	if in.stage == nil {
		if err := in.build(spec.Insecure); err != nil {
			return err
		}
	}
	r, err := mountRoot(in.stage, spec)
	if err != nil {
		return err
	}
	in.root = r
	if err := r.mountCgroups(req.Cgroups); err != nil {
		return err
	}
	if err := r.attach(); err != nil {
		return err
	}
	if err := r.mountSpec(); err != nil {
		return err
	}
	if err := r.pivot(); err != nil {
		return err
	}
	if err := r.release(); err != nil {
		return err
	}
	return settle(spec)
}

// unshare leaves the namespaces that a spare could not know it would have to leave.
func unshare(req *request) error {
	if req.Spec.Namespace != "" {
		if err := join(req.Spec.Namespace); err != nil {
			return err
		}
	}
	flags := 0
	if len(req.Cgroups) > 0 {
		flags |= unix.CLONE_NEWCGROUP
	}
	if req.Spec.Network == NetworkNone {
		flags |= unix.CLONE_NEWNET
	}
	if flags == 0 {
		return nil
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if req.Spec.Network == NetworkNone {
		return loopbackUp()
	}
	return nil
}

// join enters a network namespace of the machine's, whose files this process still sees.
func join(path string) (err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// loopbackUp gives a new network namespace the one address that programs take for granted.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	return nil
}
