// Package serverless is the worker behind serverless-runner-task: it runs a task's steps, one after the other, in a room
// of the task's own.
//
// A step is a command for the shell (run) or a plugin. Some plugins are built in, a file each (see the table in
// plugin.go); others are modules of Node.js, from the repository or from npm, and run in the room under a small shim.
//
// The words: a room is a root file system for the processes of one task, behind the interface Rooms, which the
// application satisfies with slipway's sandbox. The workspace is the folder that steps start in, seen in the room as
// /workspace. What steps print passes a masker, which knows the run's secrets.
package serverless

import (
	"context"
	"io"
	"net/http"
	"time"

	"slipway/internal/notify/dingtalk"
	"slipway/internal/pipeline"
)

// Name is the name of the preset worker.
const Name = "serverless-runner"

// Workspace is where steps find the task's files.
const Workspace = "/workspace"

// Rooms are where commands of tasks run. Its method may be called from several goroutines at once.
type Rooms interface {
	// Open prepares a room. It lives until it is closed, whatever becomes of ctx.
	Open(ctx context.Context, o OpenRoom) (Room, error)
}

// OpenRoom says what a room is to have.
type OpenRoom struct {
	// Binds are folders of this machine to be seen in the room.
	Binds []Bind
	// Counted are folders of this machine that count against the limit of the disk, as what is written to the room does.
	Counted []string
	// Limits hold for all processes of the room together; Timeout is the caller's. LimitsOf says whose they are.
	Limits   pipeline.Limits
	LimitsOf string
	// Progress takes events of what the room is made from, for whoever knows their type; Notice sentences for the user.
	Progress func(event any)
	Notice   func(text string)
}

// Bind is a folder of this machine and the absolute path that it has in a room.
type Bind struct{ Folder, Dir string }

// Room is a root file system. Its processes run one after the other, and each finds what those before it changed.
type Room interface {
	// Env is the environment that the room's processes have anyway, as NAME=value.
	Env() []string
	// Run runs a process and returns its exit code. The error is of kind errs.NotFound when there is no such program, and a
	// *pipeline.LimitError when a limit was hit.
	Run(ctx context.Context, p Process) (code int, err error)
	// Close throws away what processes changed.
	Close() error
}

// Process is a command to run in a room.
type Process struct {
	Args []string
	// Env is laid over the room's.
	Env []string
	// Dir is an absolute path in the room.
	Dir            string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Account is the cloud account that steps act for.
type Account struct {
	ID, AccessKeyID, AccessKeySecret, SecurityToken string
}

// Options say what a Worker works with. Check needs none of them.
type Options struct {
	// Rooms is required for Work.
	Rooms Rooms
	// Git are the facts about the commit that ${{ git.x }} gives, by name: see gitNames.
	Git map[string]string
	// Secrets and CloudSecrets are the values of ${{ secrets.x }} and ${{ cloudSecrets.x }}. Nothing that is logged shows
	// them. Default, of Secrets: not known, so that Check accepts any name.
	Secrets, CloudSecrets map[string]string
	// Account gives ${{ uid }} and ${{ sts.x }}.
	Account Account
	// Fetcher fetches repositories for checkout. Default: the run's own is the only one.
	Fetcher Fetcher
	// Deployer deploys functions. Default: s-deploy, fc-canary and fc-release fail.
	Deployer Deployer
	// Cache is the folder where the cache plugin keeps what it saves, unless it is told another place.
	Cache string
	// HTTP sends the requests of plugins. Default: http.DefaultTransport.
	HTTP http.RoundTripper
	// Now is the clock. Required for Work.
	Now func() time.Time
}

// Worker is the worker of serverless-runner-task.
type Worker struct{ opts Options }

var _ pipeline.Worker = (*Worker)(nil)

// New returns a worker.
func New(opts Options) *Worker { return &Worker{opts: opts} }

func (w *Worker) robots() *dingtalk.Client {
	return &dingtalk.Client{HTTP: w.opts.HTTP, Now: w.opts.Now}
}
