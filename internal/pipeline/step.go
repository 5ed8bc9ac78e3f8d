package pipeline

// StepStatus is where a step of a task stands. The words are those that pipeline files compare with, in
// ${{ steps.test.status == 'success' }}, which is why they are not those of Status.
type StepStatus string

// The statuses of a step. StepErrorWithContinue is a failure that continue-on-error forgave.
const (
	StepPending           StepStatus = "pending"
	StepRunning           StepStatus = "running"
	StepSuccess           StepStatus = "success"
	StepFailure           StepStatus = "failure"
	StepSkipped           StepStatus = "skipped"
	StepCancelled         StepStatus = "cancelled"
	StepErrorWithContinue StepStatus = "error-with-continue"
)

// Step is a step of a task, as events and records tell of it.
type Step struct {
	// Number counts from 0, which is setting up.
	Number int
	Name   string
	Status StepStatus
}
