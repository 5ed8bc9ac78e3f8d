// Package store holds what the service remembers, and the contracts of the database that remembers it.
//
// An App is a repository with a pipeline and settings. A Run is one execution of it, a row that names the resolved
// pipeline, the commit and the versions of secrets, so that it can be repeated exactly. Its Tasks have Attempts. An
// attempt that is queued is an entry of the queue: there is no other queue, and nothing to rebuild after a crash.
// Whoever claims an attempt holds a lease on it and an Epoch, a number that rises with each change of hands; a write
// that carries an older one is refused. Every change is also an Event of its run, appended in the same transaction.
//
// The contracts are small, one for each kind of thing, and one driver satisfies them all (Store). Common to them:
//
//   - A method is one transaction: it has happened, durably, when it returns nil, and not at all when it returns an
//     error. Methods may be called from many goroutines and from several processes at once.
//   - A status moves only from a status that the caller names. Losing the race is an errs.Conflict; what does not exist
//     is an errs.NotFound; a name that is taken is an errs.Exists; a full disk is an errs.Limit; a database that
//     cannot be reached, or is busy for too long, is an errs.Unavailable.
//   - Time is the database's: callers give durations and get instants.
//
// Bytes of logs are not in the database but in files (package logfile); the database has their index. Package storetest
// is the contract as a test suite. This package does no I/O.
package store

import (
	"context"
	"io"
)

// Store is all contracts at once: what a driver implements, and what the application hands out in parts.
type Store interface {
	AppStore
	RunStore
	Queue
	LogIndex
	Inbox
	Outbox
	SecretStore
	TokenStore
	AuditLog
	io.Closer

	// Ping asks whether the database answers and takes writes.
	Ping(ctx context.Context) error
}

// Backuper is a Store that can copy itself while it is in use.
type Backuper interface {
	// Backup writes a consistent copy of the whole database to path, which must not exist.
	Backup(ctx context.Context, path string) error
}
