package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/logfile"
	"slipway/internal/pipeline/store"
)

// lockFD is where a supervisor finds the lock that it was handed.
const lockFD = 3

// Options are what a supervisor needs.
type Options struct {
	// Dir is the attempt's folder.
	Dir string
	// Order is where it reads its Order.
	Order io.Reader
	// Worker is the program and arguments that become the worker.
	Worker []string
	// Now is the clock of log lines. Required.
	Now func() time.Time
	// Mask hides values in what a dying worker said. Default: nothing is hidden.
	Mask func(values []string) func(string) string
	// Beat is how often to beat, Grace how long a worker may take to end when told to. Defaults: 5 and 30 seconds.
	Beat, Grace time.Duration
}

// supervision is one at work.
type supervision struct {
	opts   Options
	log    *logfile.Writer
	events *logfile.Writer
	mask   func(string) string

	mu    sync.Mutex
	exit  *Exit // what the worker said last
	wrong error // what went wrong with writing down what it says
	told  *CancelOrder
	late  bool // it has been at it for longer than it may
}

// Supervise runs an attempt to its end and writes its exit record. An error means that there is none.
func Supervise(o Options) error {
	// The worker dies with the thread that started it, so that has to be one that stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.CloseOnExec(lockFD)
	if o.Beat == 0 {
		o.Beat = 5 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 30 * time.Second
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	s := &supervision{opts: o, mask: func(text string) string { return text }}
	exit, err := s.run(signals)
	if err != nil {
		exit = &Exit{Status: pipeline.Failed, Class: pipeline.ClassInfrastructure, Error: s.mask(err.Error()), Hint: errs.HintOf(err)}
	}
	exit.FinishedAt = o.Now()
	return s.record(exit)
}

// reserveBytes is more than an exit record and what else is written at the end have.
const reserveBytes = 256 << 10

// record writes the exit record. Should there be no room even after what was reserved is given back, somebody will make
// some; until then the attempt has not ended.
func (s *supervision) record(exit *Exit) error {
	if len(exit.Error) > reserveBytes/4 {
		exit.Error = exit.Error[:reserveBytes/4]
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, s.opts.Beat) {
		err := writeJSON(s.opts.Dir, exitName, exit)
		if err == nil || !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		s.beat()
		time.Sleep(pause)
	}
}

func (s *supervision) run(signals <-chan os.Signal) (_ *Exit, err error) {
	var order Order
	if err := json.NewDecoder(s.opts.Order).Decode(&order); err != nil {
		return nil, fmt.Errorf("read the order: %w", err)
	}
	if s.opts.Mask != nil {
		s.mask = s.opts.Mask(order.Mask)
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	defer func() {
		// From here on the room is needed: to say in the logs what is missing, and for the exit record.
		_ = os.Remove(filepath.Join(s.opts.Dir, reserveName)) // if it is still there, and can be
		err = errors.Join(err, s.log.Close(), s.events.Close())
	}()
	return s.work(order, signals)
}

// open makes the files of the attempt.
func (s *supervision) open() error {
	s.beat()
	if err := os.WriteFile(filepath.Join(s.opts.Dir, reserveName), make([]byte, reserveBytes), 0o600); err != nil {
		return fmt.Errorf("reserve room for the exit record: %w", err)
	}
	log, err := logfile.Create(LogFile(s.opts.Dir, store.LogStream))
	if err != nil {
		return err
	}
	events, err := logfile.Create(LogFile(s.opts.Dir, store.BuildStream))
	if err != nil {
		return errors.Join(err, log.Close())
	}
	s.log = logfile.NewWriter(log, logfile.GapLine(func() int64 { return s.opts.Now().UnixMilli() }))
	s.events = logfile.NewWriter(events, func(records, bytes int64) ([]byte, error) {
		return fmt.Appendf(nil, `{"kind":"warning","time":%q,"text":"%d events (%d bytes) are missing here: the disk was full"}`+"\n",
			s.opts.Now().Format(time.RFC3339Nano), records, bytes), nil
	})
	return nil
}

// beat says that this process is there and gets to run.
func (s *supervision) beat() {
	// Not by rename, which needs room on the disk: a short file is overwritten in place.
	f, err := os.OpenFile(filepath.Join(s.opts.Dir, beatName), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return // no beat is what the server will notice
	}
	_, _ = f.WriteAt([]byte(fmt.Sprintf("%020d\n", int64(uptime()))), 0) // as above
	_ = f.Close()
}

// work starts the worker and stays with it to its end.
func (s *supervision) work(order Order, signals <-chan os.Signal) (*Exit, error) {
	cmd := exec.Command(s.opts.Worker[0], s.opts.Worker[1:]...) //nolint:noctx // it is ended below, in two steps
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stdin = bytes.NewReader(order.Work)
	complaints := &tail{limit: 16 << 10}
	cmd.Stderr = complaints
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	// Before anything can happen, so that nothing has where this was not written.
	if err := s.introduce(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	spare()
	finished := make(chan error)
	go func() {
		// Wait closes the pipe, so all of it has to be read before. When a frame is not understood the rest is thrown away,
		// for a worker that nobody listens to would stop.
		err := readFrames(said, s.take)
		_, drained := io.Copy(io.Discard, said)
		finished <- errors.Join(err, drained)
	}()
	heard := s.accompany(cmd.Process.Pid, order.Limit, signals, finished)
	ended := cmd.Wait()
	return s.verdict(ended, heard, complaints.String())
}

// introduce writes down which process this is.
func (s *supervision) introduce() error {
	start, err := startOf(os.Getpid())
	if err == nil {
		err = writeJSON(s.opts.Dir, stateName, process{PID: os.Getpid(), Start: start})
	}
	if err != nil {
		return fmt.Errorf("write down which process this is: %w", err)
	}
	return nil
}

// spare makes the kernel take this process late when memory runs out: it is small, and knows what happened. Only root may.
func spare() {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(-500)), 0) // without, all works as before
}

// accompany beats, syncs and passes cancellation on until the worker has nothing more to say. It returns what went
// wrong with listening.
func (s *supervision) accompany(worker int, limit time.Duration, signals <-chan os.Signal, finished <-chan error) error {
	beat, sync := time.NewTicker(s.opts.Beat), time.NewTicker(min(time.Second, s.opts.Beat))
	defer beat.Stop()
	defer sync.Stop()
	var kill, late <-chan time.Time
	if limit > 0 {
		late = time.After(limit)
	}
	end := func() {
		if kill == nil {
			_ = syscall.Kill(worker, syscall.SIGTERM) // it may have ended by itself
			kill = time.After(s.opts.Grace)
		}
	}
	for {
		select {
		case err := <-finished:
			return err
		case <-beat.C:
			s.beat()
			if s.canceled() {
				end()
			}
		case <-sync.C:
			s.fail(errors.Join(s.log.Sync(), s.events.Sync()))
		case <-signals:
			s.canceled()
			end()
		case <-late:
			s.mu.Lock()
			s.late = true
			s.mu.Unlock()
			end()
		case <-kill:
			_ = syscall.Kill(-worker, syscall.SIGKILL) // as above
		}
	}
}

// canceled looks for the order to end.
func (s *supervision) canceled() bool {
	var c CancelOrder
	if readJSON(s.opts.Dir, cancelName, &c) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = &c
	return true
}

// take writes down one thing that the worker says.
func (s *supervision) take(f Frame) error {
	switch {
	case f.Line != nil:
		records, err := logfile.Encode(*f.Line)
		if err != nil {
			return err
		}
		s.fail(s.log.Write(records, 1))
	case f.Build != nil:
		s.fail(s.events.Write(append(f.Build, '\n'), 1))
	case f.Exit != nil:
		s.mu.Lock()
		s.exit = f.Exit
		s.mu.Unlock()
	}
	return nil
}

func (s *supervision) fail(err error) {
	if err == nil || errors.Is(err, errs.Limit) {
		return // a full disk is told in the log itself, when there is room
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong == nil {
		s.wrong = err
	}
}

// verdict decides how the attempt ended. Only a worker that said so, and ended well, has succeeded.
func (s *supervision) verdict(ended, heard error, complaints string) (*Exit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	exit := s.exit
	switch {
	case s.wrong != nil:
		return nil, fmt.Errorf("write the log: %w", s.wrong)
	case exit != nil && exit.Status == pipeline.Succeeded && ended == nil && heard == nil:
		return exit, nil // it was faster than any wish that it should end
	case s.told != nil:
		return &Exit{Status: pipeline.Canceled, Class: s.told.Class, Error: s.told.Reason}, nil
	case s.late:
		return &Exit{Status: pipeline.Failed, Class: pipeline.ClassTimeout, Error: "it did not end when its time was over, and was ended"}, nil
	case exit != nil && exit.Status == pipeline.Canceled:
		return nil, errors.New("it was told to end by a signal, not by the service: the machine is being shut down, or somebody ended it")
	case exit != nil && exit.Status == pipeline.Failed:
		return exit, nil
	case heard != nil:
		return nil, heard
	default:
		return nil, died(ended, s.mask(complaints))
	}
}

// died is the error of a worker that ended without a result.
func died(ended error, complaints string) error {
	how := "it ended without saying how"
	if exit, ok := errors.AsType[*exec.ExitError](ended); ok {
		how = exit.Error()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
			how = "it was killed; perhaps the machine ran out of memory"
		}
	}
	err := errors.New("the worker is gone: " + how)
	if last := strings.TrimSpace(complaints); last != "" {
		err = fmt.Errorf("%w; it said last: %s", err, last)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	data  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.data) }
