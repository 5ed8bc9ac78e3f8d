// Package supervisor lets attempts outlive the server that started them.
//
// Each attempt has a supervisor, a process in a session of its own. It starts a worker, a second process, which does the
// task and says what happens on its standard output, as Frames. The supervisor writes that to files, beats, and at the
// end writes an exit record. Both are this same program. A folder is all that server and supervisor share:
//
//	lock             locked by the supervisor for as long as it lives; the server locks it first and hands it over
//	supervisor.json  its process; from then on something may have been done
//	beat             when it last beat
//	cancel.json      written by the server: end
//	log, build       what the attempt said (package logfile)
//	exit.json        how it ended. Without one, an attempt whose supervisor is gone has not succeeded
//	reserve          room for the exit record when the disk is full
//
// On the server's side Launch starts a supervisor and Look, Cancel and Kill find it again, also those of a server that
// was here before. In the supervisor Supervise does the work; in the worker a Reporter writes frames. The worker dies
// with its supervisor. Package supervisor knows nothing of the database; what the work is, is between the server and
// the worker.
package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

// Names in an attempt's folder.
const (
	lockName    = "lock"
	stateName   = "supervisor.json"
	beatName    = "beat"
	cancelName  = "cancel.json"
	exitName    = "exit.json"
	reserveName = "reserve"
	errorName   = "supervisor.err"
)

// LogFile is the file of one of an attempt's logs.
func LogFile(dir string, s store.Stream) string { return filepath.Join(dir, string(s)) }

// Order is what a supervisor reads from its standard input.
type Order struct {
	// Mask are values that must not be written anywhere.
	Mask []string `json:"mask,omitempty"`
	// Limit is how long the worker may take in all: it keeps its own time, and this is for one that does not. Default: no
	// limit.
	Limit time.Duration `json:"limit,omitempty"`
	// Work is handed to the worker, on its standard input.
	Work json.RawMessage `json:"work"`
}

// Exit is how an attempt ended.
type Exit struct {
	Status     pipeline.Status `json:"status"`
	Class      pipeline.Class  `json:"class,omitempty"`
	Error      string          `json:"error,omitempty"`
	Hint       string          `json:"hint,omitempty"`
	ExitCode   int             `json:"exitCode,omitempty"`
	Output     pipeline.Output `json:"output"`
	FinishedAt time.Time       `json:"finishedAt"`
}

// CancelOrder is what cancel.json holds.
type CancelOrder struct {
	Class  pipeline.Class `json:"class"`
	Reason string         `json:"reason"`
}

// process says which process a supervisor is: numbers of processes are used again, and a folder may outlive a boot.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // in clock ticks after the boot
}

// writeJSON makes a file that appears as a whole and is on the disk.
func writeJSON(dir, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return write(dir, name, data)
}

func write(dir, name string, data []byte) (err error) {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readJSON reads a file that writeJSON made. It is an errs.NotFound when there is none.
func readJSON(dir, name string, v any) error {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return errs.Mark(err, errs.NotFound)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(dir, name), errs.Mark(err, errs.Corrupt))
	}
	return nil
}

// uptime is the machine's own clock, which nobody sets and suspending does not stop.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("[bug] no CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	return time.Duration(t.Nano())
}
