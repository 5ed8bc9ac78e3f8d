package store

import (
	"context"
	"time"
)

// Entry is a line of the audit log: who changed what.
type Entry struct {
	ID    int64
	At    time.Time
	Actor string
	// Action is the operation's id, as "create-app". Result is "done" or "refused".
	Action, Result string
	// App and Subject are what it was done to.
	App, Subject string
	// Remote is the address that the request came from.
	Remote string
	// Detail is for people. No secret is in it.
	Detail string
}

// EntryFilter selects entries, the newest first.
type EntryFilter struct {
	Actor, Action, App string
	Before             int64
	// Limit bounds the answer. Default: 50.
	Limit int
}

// AuditLog keeps who changed what. Nothing takes an entry away but age.
type AuditLog interface {
	// Record appends an entry.
	Record(ctx context.Context, e Entry) error
	// Entries returns entries.
	Entries(ctx context.Context, f EntryFilter) ([]Entry, error)
	// ForgetEntries removes those older than age, and returns how many.
	ForgetEntries(ctx context.Context, age time.Duration) (int64, error)
}
