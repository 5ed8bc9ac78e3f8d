package approval_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/task/approval"
)

func job(name string, told *[]string) *pipeline.Job {
	return &pipeline.Job{
		Run: "release", Task: &pipeline.Task{Name: name},
		Emit: func(e pipeline.Event) { *told = append(*told, e.Text) },
	}
}

func TestWork(t *testing.T) {
	t.Parallel()
	answer := func(yes bool, err error) func(context.Context, approval.Question) (bool, error) {
		return func(context.Context, approval.Question) (bool, error) { return yes, err }
	}
	for _, tt := range []struct {
		name string
		opts approval.Options
		told []string
		err  string
		kind error
	}{
		{"by name", approval.Options{Approved: []string{"other", "deploy"}}, []string{"approved beforehand"}, "", nil},
		{"anything", approval.Options{Approved: []string{approval.Anything}}, []string{"approved beforehand"}, "", nil},
		{"yes", approval.Options{Approved: []string{"other"}, Ask: answer(true, nil)}, []string{"waits for approval", "approved"}, "", nil},
		{"no", approval.Options{Ask: answer(false, nil)}, []string{"waits for approval"}, "rejected", nil},
		{"nobody to ask", approval.Options{}, nil, "nobody to ask", errs.Invalid},
		{"no answer", approval.Options{Ask: answer(true, errors.New("the terminal is gone"))}, []string{"waits for approval"}, "ask for approval: the terminal is gone", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var told []string
			_, err := approval.New(tt.opts).Work(t.Context(), job("deploy", &told))
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("Work: %v, want %q", err, tt.err)
			}
			if tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("Work: %v is not %v", err, tt.kind)
			}
			if diff := cmp.Diff(tt.told, told); diff != "" {
				t.Errorf("told mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// One person cannot answer two questions at once, and a question that is not asked any more is not waited for.
func TestOneQuestionAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asking atomic.Int32
		w := approval.New(approval.Options{Ask: func(ctx context.Context, q approval.Question) (bool, error) {
			if asking.Add(1) > 1 {
				t.Error("two questions at once")
			}
			defer asking.Add(-1)
			if q.Pipeline != "release" || q.DisplayName != q.Task {
				t.Errorf("asked %+v", q)
			}
			select {
			case <-time.After(time.Hour):
				return true, nil
			case <-ctx.Done():
				return true, nil // too late
			}
		}})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(90*time.Minute, func() { cancel(errs.Canceled) })
		var group sync.WaitGroup
		var approved, canceled atomic.Int32
		for _, name := range []string{"a", "b", "c"} {
			group.Go(func() {
				var told []string
				switch _, err := w.Work(ctx, job(name, &told)); {
				case err == nil:
					approved.Add(1)
				case errors.Is(err, errs.Canceled):
					canceled.Add(1)
				}
			})
		}
		group.Wait()
		if approved.Load() != 1 || canceled.Load() != 2 {
			t.Errorf("%d approved and %d canceled, want 1 and 2", approved.Load(), canceled.Load())
		}
	})
}
