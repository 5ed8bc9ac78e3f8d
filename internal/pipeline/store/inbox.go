package store

import (
	"context"
	"time"
)

// DeliveryStatus is what became of a webhook delivery.
type DeliveryStatus string

// The statuses of a delivery. Received waits to be processed; Fired made a run; Skipped matched no trigger, or was
// nothing to act on; Failed could not be processed, and is not tried again.
const (
	DeliveryReceived DeliveryStatus = "received"
	DeliveryFired    DeliveryStatus = "fired"
	DeliverySkipped  DeliveryStatus = "skipped"
	DeliveryFailed   DeliveryStatus = "failed"
)

// Delivery is a webhook request as it came. It is stored before it is answered, and processed from the table.
type Delivery struct {
	ID int64
	// AppID is the app whose hook was called.
	AppID int64
	App   string
	// Provider is the forge: "github", "gitlab", "gitee", "codeup", "generic".
	Provider string
	// Delivery is the forge's id of it. A second one with the same id is the same.
	Delivery string
	// Event is the forge's name of what happened, as "push".
	Event string
	// Header has the headers worth keeping; no signature, token or cookie is among them.
	Header map[string]string
	Body   []byte

	Status DeliveryStatus
	// Reason says why it was skipped or failed, or what it still waits for.
	Reason string
	// Run is the run that it made.
	Run int64
	// Attempts is how often it has been processed, Epoch who holds it.
	Attempts int
	Epoch    int64
	// ReplayOf is the delivery that this one repeats, and By who asked for it.
	ReplayOf                int64
	By                      string
	ReceivedAt, ProcessedAt time.Time
}

// Outcome is what became of processing a delivery.
type Outcome struct {
	Status DeliveryStatus
	Reason string
	Run    int64
	// Again, when Status is DeliveryReceived, is after what time to process it once more.
	Again time.Duration
}

// DeliveryFilter selects deliveries, the newest first.
type DeliveryFilter struct {
	AppID  int64 // 0 is all
	Status DeliveryStatus
	Before int64
	// Limit bounds the answer. Default: 50.
	Limit int
}

// Inbox keeps webhook deliveries.
type Inbox interface {
	// Receive stores a delivery. When there is one already with its App, Provider and Delivery, that one is returned and
	// duplicate is true. An empty Delivery is never a duplicate.
	Receive(ctx context.Context, d Delivery) (stored Delivery, duplicate bool, err error)
	// NextDelivery claims the oldest delivery that is due for the time of lease. It is an errs.NotFound when there is
	// none.
	NextDelivery(ctx context.Context, lease time.Duration) (Delivery, error)
	// Processed records what became of a delivery. It is an errs.Conflict when d.Epoch is not the current one.
	Processed(ctx context.Context, d Delivery, o Outcome) error
	// Replay stores a copy of a delivery, to be processed anew.
	Replay(ctx context.Context, id int64, by string) (Delivery, error)
	// Delivery returns a delivery, Deliveries several without bodies.
	Delivery(ctx context.Context, id int64) (Delivery, error)
	Deliveries(ctx context.Context, f DeliveryFilter) ([]Delivery, error)
	// ForgetDeliveries removes those that were processed longer ago than age, and returns how many.
	ForgetDeliveries(ctx context.Context, age time.Duration) (int64, error)
}
