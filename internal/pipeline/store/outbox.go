package store

import (
	"context"
	"time"
)

// Message is something to tell the world outside: a commit status, a notification. It is stored in the transaction of
// the change that it tells of, and sent from the table.
type Message struct {
	ID int64
	// Kind says who sends it: "commit-status", "dingtalk".
	Kind string
	// Key says what it is about, as repository, commit and context. Of several with the same kind and key only the last
	// matters; those before it that were not sent are not sent any more.
	Key string
	// Run is the run that it tells of, 0 for none.
	Run int64
	// Body is JSON that the sender understands. No secret is in it.
	Body []byte

	Status MessageStatus
	// Attempts is how often it was tried, Error why the last try failed, Epoch who holds it.
	Attempts          int
	Error             string
	Epoch             int64
	CreatedAt, SentAt time.Time
	// DueAt is when it is tried next.
	DueAt time.Time
}

// MessageStatus is what became of a message.
type MessageStatus string

// The statuses of a message.
const (
	MessageWaiting  MessageStatus = "waiting"
	MessageSent     MessageStatus = "sent"
	MessageReplaced MessageStatus = "replaced"
	MessageFailed   MessageStatus = "failed"
)

// MessageFilter selects messages, the newest first.
type MessageFilter struct {
	Status MessageStatus
	Run    int64
	Before int64
	// Limit bounds the answer. Default: 50.
	Limit int
}

// Outbox keeps messages.
type Outbox interface {
	// Send stores messages that belong to no other change.
	Send(ctx context.Context, out ...Message) error
	// NextMessage claims the oldest message of one of the kinds that is due, for the time of lease. It is an
	// errs.NotFound when there is none.
	NextMessage(ctx context.Context, lease time.Duration, kinds ...string) (Message, error)
	// Sent records that a message was sent, NotSent that it was not: it is tried again after a time, or never when that
	// is negative. Both are an errs.Conflict when m.Epoch is not the current one, or the message was replaced.
	Sent(ctx context.Context, m Message) error
	NotSent(ctx context.Context, m Message, why string, again time.Duration) error
	// Messages returns messages.
	Messages(ctx context.Context, f MessageFilter) ([]Message, error)
	// ForgetMessages removes those that were sent or given up longer ago than age, and returns how many.
	ForgetMessages(ctx context.Context, age time.Duration) (int64, error)
}
