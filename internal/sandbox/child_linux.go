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
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// initName is the name under which this program is started to be process 1 of a sandbox.
const initName = "slipway-init"

// controlFD is init's end of the socket to its parent.
const controlFD = 3

// thread runs functions on one thread of the kernel. Children die with the thread that started them (PDEATHSIG), and on
// cgroup v1 are born in its cgroups.
type thread struct {
	jobs     chan func()
	done     chan struct{}
	children sync.WaitGroup
}

func newThread() *thread {
	t := &thread{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		t.serve()
	}()
	return t
}

// serve runs jobs. The thread ends with it, for it is never unlocked: it may be in a cgroup and must not run anything
// else. A program's first thread cannot end, so that one is left alone.
func (t *thread) serve() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() { // on another thread, since this one is locked
			defer close(done)
			t.serve()
		}()
		<-done
		return
	}
	for job := range t.jobs {
		job()
	}
}

// do runs job on the thread and waits for it.
func (t *thread) do(job func()) {
	finished := make(chan struct{})
	t.jobs <- func() { defer close(finished); job() }
	<-finished
}

// stop waits for the children and ends the thread.
func (t *thread) stop() {
	t.children.Wait()
	close(t.jobs)
	<-t.done
}

// child is an init process and the parent's end of its socket.
type child struct {
	proc   *os.Process
	conn   *os.File
	exited chan struct{} // closed when the process is gone and state is set
	state  *os.ProcessState
	err    error
}

// spareArg tells init that its request is some time away and will be an ordinary one.
const spareArg = "spare"

// birth says which program init is, and into what it is born.
func birth(args []string) (prog program, sys *syscall.SysProcAttr, err error) {
	sys = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are for slipway, which decides
	if slices.Contains(args, chrootArg) {
		sys.Pdeathsig = killAll // it has to kill what it started before it ends
		return hostProgram(), sys, nil
	}
	sys.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	sys.Pdeathsig = syscall.SIGKILL
	prog, err = ownProgram()
	return prog, sys, err
}

// spawn starts init on t, in cgroup when that is not nil. It waits for its request.
func spawn(t *thread, cgroup *os.File, args ...string) (*child, error) {
	prog, sys, err := birth(args)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	attr := &os.ProcAttr{
		// The collector would only make a short life longer, and one processor is all that init can use. Otherwise the
		// runtime looks for limits and keeps files of cgroups open. Nothing of slipway's own environment goes in.
		Env:   []string{"GOGC=off", "GOMAXPROCS=1", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"},
		Files: []*os.File{null, null, null, theirs},
		Sys:   sys,
	}
	if cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cgroup.Fd())
	}
	c := &child{conn: ours, exited: make(chan struct{})}
	t.do(func() { c.proc, err = prog.start(append([]string{initName}, args...), attr) })
	if err != nil {
		return nil, errors.Join(startError(err), ours.Close())
	}
	t.children.Go(func() {
		defer close(c.exited)
		c.state, c.err = c.proc.Wait()
	})
	return c, nil
}

// startError explains why namespaces cannot be made.
func startError(err error) error {
	err = fmt.Errorf("start sandbox: %w", err)
	if errors.Is(err, unix.EPERM) {
		return errs.Hint(errs.Mark(err, errs.Denied), "building needs root, or CAP_SYS_ADMIN in a container; see slipway doctor")
	}
	return err
}

// socketpair is a connected pair: ours is non-blocking and belongs to the runtime's poller, theirs blocks.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "control")
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[0]), theirs.Close())
	}
	return os.NewFile(uintptr(fds[0]), "control"), theirs, nil
}

// send passes the request and the standard descriptors: the descriptors ride on the length that precedes the JSON.
func (c *child) send(req request, std [3]*os.File) error {
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("describe sandbox: %w", err)
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach sandbox: %w", err)
	}
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(data)))
	rights := unix.UnixRights(int(std[0].Fd()), int(std[1].Fd()), int(std[2].Fd()))
	var sent error
	if err := raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), size, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	}); err != nil {
		return fmt.Errorf("reach sandbox: %w", err)
	}
	if sent == nil {
		_, sent = c.conn.Write(data)
	}
	if sent != nil && !errors.Is(sent, unix.EPIPE) { // a dead init says so when it is read from
		return fmt.Errorf("reach sandbox: %w", sent)
	}
	return nil
}

// receive reads init's report. When init dies without one, that is no error here.
func (c *child) receive() (report, error) {
	var rep report
	err := json.NewDecoder(c.conn).Decode(&rep)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		return rep, fmt.Errorf("hear from sandbox: %w", err)
	}
	return rep, nil
}

// gone tells whether a spare has died meanwhile.
func (c *child) gone() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// discard kills what still runs and frees everything.
func (c *child) discard() error {
	_ = c.proc.Kill() // the only error is that it ended already
	<-c.exited
	if err := c.conn.Close(); !errors.Is(err, os.ErrClosed) {
		return errors.Join(c.err, err)
	}
	return c.err
}
