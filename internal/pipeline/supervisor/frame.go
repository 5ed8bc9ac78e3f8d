package supervisor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"slipway/internal/errs"
	"slipway/internal/pipeline/logfile"
)

// Frame is one thing that a worker says: a line of JSON on its standard output.
type Frame struct {
	Line *logfile.Line `json:"line,omitempty"`
	// Build is an event of an image build, as JSON.
	Build json.RawMessage `json:"build,omitempty"`
	// Exit is the last frame.
	Exit *Exit `json:"exit,omitempty"`
}

// Reporter writes frames. Its methods may be called from several goroutines.
type Reporter struct {
	mu  sync.Mutex
	out io.Writer
	err error
}

// NewReporter returns a reporter to out, which is the worker's standard output.
func NewReporter(out io.Writer) *Reporter { return &Reporter{out: out} }

// Send writes a frame. After the first error it writes nothing; Err tells.
func (r *Reporter) Send(f Frame) {
	data, err := json.Marshal(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	if r.err = err; err == nil {
		_, r.err = r.out.Write(append(data, '\n'))
	}
}

// Err returns why frames could not be written.
func (r *Reporter) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return fmt.Errorf("report to the supervisor: %w", r.err)
	}
	return nil
}

// maxFrame bounds what a supervisor reads as one.
const maxFrame = 16 << 20

// readFrames calls each for every frame until there are no more.
func readFrames(from io.Reader, each func(Frame) error) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 64<<10), maxFrame)
	for lines.Scan() {
		var f Frame
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return fmt.Errorf("read what the worker says: %w", errs.Mark(err, errs.Corrupt))
		}
		if err := each(f); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read what the worker says: %w", err)
	}
	return nil
}
