// Package notify tells people what became of the tasks of a run: the dingdingNotification of a task's context.
//
//	n := notify.New(p, notify.Options{DingTalk: client, Failed: func(task string, err error) { … }})
//	emit := func(e pipeline.Event) { show(e); n.Event(ctx, e) }
//	…
//	n.Close()
//
// A message is sent when a task that had started ends. Texts are Go templates over what is known of the task then, see
// Check for what they may hold. A message that cannot be sent is told to Options.Failed and changes nothing else: a
// deployment is not undone because a chat is down.
package notify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"slipway/internal/errs"
	"slipway/internal/notify/dingtalk"
	"slipway/internal/pipeline"
)

// sendTime is how long a message may take: a run that is over waits for its messages.
const sendTime = 10 * time.Second

// Options say how messages are sent.
type Options struct {
	// DingTalk sends. Required.
	DingTalk *dingtalk.Client
	// Failed hears of messages that were not sent. It is called from several goroutines at once. Required.
	Failed func(task string, err error)
}

// Notifier listens to a run. Event is called by one goroutine at a time.
type Notifier struct {
	opts     Options
	pipeline *pipeline.Pipeline
	started  map[string]time.Time
	sending  sync.WaitGroup
}

// New returns a notifier for a run of p.
func New(p *pipeline.Pipeline, opts Options) *Notifier {
	return &Notifier{opts: opts, pipeline: p, started: map[string]time.Time{}}
}

// Event takes an event of the run. It does not wait for what it sends, nor does that end with ctx: a run that is canceled
// is told of, too.
func (n *Notifier) Event(ctx context.Context, e pipeline.Event) {
	switch e.Kind {
	case pipeline.TaskStarted:
		n.started[e.Task] = e.Time
	case pipeline.TaskFinished:
		if began, ok := n.started[e.Task]; ok {
			n.finished(ctx, e, began)
		}
	}
}

func (n *Notifier) finished(ctx context.Context, e pipeline.Event, began time.Time) {
	t := n.pipeline.Task(e.Task)
	if t == nil {
		return
	}
	config := t.Data.Get("dingdingNotification")
	if !config.Get("enable").Bool() || e.Status == pipeline.Succeeded && config.Get("skipOnSuccess").Bool() {
		return
	}
	message, err := render(config.Get("message"), facts(n.pipeline, t, e, began))
	if err != nil {
		n.opts.Failed(e.Task, err)
		return
	}
	robot := dingtalk.Robot{Webhook: config.Get("webhook").String(), Secret: config.Get("secret").String()}
	n.sending.Go(func() {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), sendTime, errs.Mark(fmt.Errorf("no answer within %s", sendTime), errs.Unavailable))
		defer cancel()
		if err := n.opts.DingTalk.Send(ctx, robot, message); err != nil {
			n.opts.Failed(e.Task, err)
		}
	})
}

// Close waits for the messages that are on their way.
func (n *Notifier) Close() { n.sending.Wait() }
