package store

import "context"

// Stream names one of the logs of an attempt.
type Stream string

// The streams. LogStream has the lines that people read, BuildStream the events of image builds.
const (
	LogStream   Stream = "log"
	BuildStream Stream = "build"
)

// LogKey names a log.
type LogKey struct {
	Run     int64
	Task    string
	Attempt int
	Stream  Stream
}

// LogState is what is known about a log.
type LogState struct {
	// Bytes and Lines are what has been indexed; the file may be ahead.
	Bytes, Lines int64
	// Sealed says that nothing is added any more: what lies beyond Bytes is not part of the log.
	Sealed bool
}

// Mark says at which byte a line begins.
type Mark struct{ Line, Offset int64 }

// LogIndex keeps where lines begin in the files of logs.
type LogIndex interface {
	// ExtendLog records that a log has been indexed from state from to state to, with marks on the way. It is an
	// errs.Conflict when the log is not in state from: somebody else has indexed it.
	ExtendLog(ctx context.Context, k LogKey, from, to LogState, marks []Mark) error
	// LogState returns what is known about a log, the zero value when it has not been indexed.
	LogState(ctx context.Context, k LogKey) (LogState, error)
	// MarkBefore returns the last mark at or before a line, the zero value when there is none.
	MarkBefore(ctx context.Context, k LogKey, line int64) (Mark, error)
}
