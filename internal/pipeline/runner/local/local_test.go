package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/runner/fake"
	"slipway/internal/pipeline/runner/local"
	"slipway/internal/pipeline/runnertest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	runnertest.Test(t, func(t *testing.T) pipeline.Runner {
		return local.New(local.Options{Dir: t.TempDir(), Workers: map[string]pipeline.Worker{runnertest.Worker: fake.Worker{}}})
	})
}

// recorder keeps the job it got, and ends as err says.
type recorder struct {
	job *pipeline.Job
	err error
}

func (*recorder) Check(*pipeline.Task, pipeline.Report) {}

func (r *recorder) Work(_ context.Context, job *pipeline.Job) (pipeline.Output, error) {
	r.job = job
	return pipeline.Output{}, errors.Join(r.err, os.WriteFile(filepath.Join(job.Dir, "file"), nil, 0o600))
}

func notices(events *[]string) func(pipeline.Event) {
	return func(e pipeline.Event) {
		if e.Kind == pipeline.Notice {
			*events = append(*events, e.Text)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	worker := &recorder{}
	dir := t.TempDir()
	runner := local.New(local.Options{
		Dir:     dir,
		Workers: map[string]pipeline.Worker{runnertest.Worker: worker},
		Machine: pipeline.Machine{CPUs: 2, Memory: 4 * pipeline.GiB, Disk: 100 * pipeline.GiB},
		NAS:     map[string]string{"nas.example.com:/": "/srv/nas", "nas.example.com:/cache": "/srv/cache"},
	})
	attempt := runnertest.Attempt(time.Minute)
	attempt.Task.Environment.Hosted = []string{"regionId", "vpcConfig"}
	attempt.Task.Environment.Mounts = []pipeline.Mount{
		{Dir: "/mnt/a", Server: "nas.example.com:/cache"},
		{Dir: "/mnt/b", Server: "nas.example.com:/cache/deep/../er/"},
		{Dir: "/mnt/c", Server: "nas.example.com:/cached"},
		{Dir: "/mnt/d", Server: "nas.example.com:/../../etc"},
		{Dir: "/mnt/e", Server: "other.example.com:/cache"},
	}
	var told []string
	for range 2 {
		if _, err := runner.Run(t.Context(), attempt, notices(&told)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"the default environment asks for 4 vCPU, this machine has 2: the task gets that",
		"the default environment asks for 8 GB of memory, this machine has 4 GB: the task gets that",
		"the default environment: ignored, this machine has no use for regionId and vpcConfig",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("notices mismatch (-want +got):\n%s", diff)
	}
	var folders []string
	for _, m := range worker.job.Environment.Mounts {
		folders = append(folders, m.Folder)
	}
	if diff := cmp.Diff([]string{"/srv/cache", "/srv/cache/er", "/srv/nas/cached", "/srv/nas/etc", ""}, folders); diff != "" {
		t.Errorf("folders mismatch (-want +got):\n%s", diff)
	}
	if got := worker.job.Environment.Limits; got.CPUs != 2 || got.Memory != 4*pipeline.GiB || got.Disk != 10*pipeline.GiB {
		t.Errorf("limits are %+v", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLimitErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		err       error
		dedicated bool
		want      string
		hint      string
	}{
		{"memory", &pipeline.LimitError{Resource: "memory", Limit: "8 GB"}, false, "hit the memory limit of 8 GB of the default environment", "give it a runnerConfig with a larger memory"},
		{"disk", &pipeline.LimitError{Resource: "disk", Limit: "1 GB"}, true, "hit the disk limit of 1 GB of the runnerConfig at f.yaml:3:5", "raise diskSize in its runnerConfig"},
		{"a limit without a name", errs.Mark(errors.New("no more"), errs.Limit), false, "no more (in the default environment)", "raise the limits in the task's runnerConfig"},
		{"no limit", errors.New("plain"), false, "plain", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			runner := local.New(local.Options{Dir: t.TempDir(), Workers: map[string]pipeline.Worker{runnertest.Worker: &recorder{err: tt.err}}})
			attempt := runnertest.Attempt(time.Minute)
			if tt.dedicated {
				attempt.Task.Environment.Dedicated, attempt.Task.Environment.Origin = true, pipeline.Origin{File: "f.yaml", Line: 3, Col: 5}
			}
			_, err := runner.Run(t.Context(), attempt, func(pipeline.Event) {})
			if err == nil || err.Error() != tt.want || errs.HintOf(err) != tt.hint {
				t.Errorf("Run: %v, hint %q; want %q, hint %q", err, errs.HintOf(err), tt.want, tt.hint)
			}
		})
	}
}

func TestUnknownWorker(t *testing.T) {
	t.Parallel()
	_, err := local.New(local.Options{}).Run(t.Context(), runnertest.Attempt(time.Minute), func(pipeline.Event) {})
	if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "fake-task") {
		t.Errorf("Run: %v", err)
	}
}

func TestThisMachine(t *testing.T) {
	t.Parallel()
	m, err := local.ThisMachine(t.TempDir())
	if err != nil || m.CPUs < 1 || m.Memory < pipeline.MiB || m.Disk <= 0 {
		t.Errorf("ThisMachine: %+v, %v", m, err)
	}
}
