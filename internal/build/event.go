package build

import "time"

// Kind says what an Event tells.
type Kind string

// Kinds of event. A step is anything that takes time and has a name: an instruction, a base image being fetched, a
// push. Each step has one Started or Cached, any number of Log and Progress, and one Done or Failed after Started.
const (
	Started  Kind = "started"  // Step, Name
	Cached   Kind = "cached"   // Step, Name: the cache answered, nothing ran
	Log      Kind = "log"      // Step, Text, Stream: one line that a process printed, without its newline
	Progress Kind = "progress" // Step, Bytes, Total (0 when not known)
	Done     Kind = "done"     // Step, Took; Text is what came of it, often empty
	Failed   Kind = "failed"   // Step, Took, Text: the error
	Warning  Kind = "warning"  // Text, with file:line:column when it has a place
	Note     Kind = "note"     // Text: something a user should know once
	Reason   Kind = "reason"   // Step, Name, Text: why a step runs that the cache did not answer; after Started
	Result   Kind = "result"   // Text: a reference with digest; Digest
)

// Event is one thing that happened in a build. Its JSON form is a line of --progress json and a contract: fields are
// added, never renamed.
type Event struct {
	Kind   Kind          `json:"kind"`
	Time   time.Time     `json:"time"`
	Step   int           `json:"step,omitempty"`   // identity within the build, from 1
	Name   string        `json:"name,omitempty"`   // as displayed: "[build 2/5] RUN make"
	Text   string        `json:"text,omitempty"`   //
	Stream int           `json:"stream,omitempty"` // of a Log: 1 stdout, 2 stderr
	Bytes  int64         `json:"bytes,omitempty"`  //
	Total  int64         `json:"total,omitempty"`  //
	Took   time.Duration `json:"took,omitempty"`   // nanoseconds
	Digest string        `json:"digest,omitempty"` //
}

// Sink receives the events of a build in the order they happen. It is called from several goroutines, one at a time
// per step, and must not block for long: a build waits for it.
type Sink func(Event)
