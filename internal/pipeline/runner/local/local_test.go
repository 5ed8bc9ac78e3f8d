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
	attempt.Task.Environment.Region, attempt.Task.Environment.VPC = "cn-hangzhou", "vpc-1"
	attempt.Task.Environment.Log = "project/store"
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
		"the default environment: the network vpc-1 is nothing here; mapNetwork in the configuration says what it shall be",
		"the default environment: the log store project/store is nothing here; mapLogs in the configuration says what it shall be",
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

func TestDebugModeKeepsTheEnvironment(t *testing.T) {
	t.Parallel()
	dir, kept := t.TempDir(), t.TempDir()
	now := time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC)
	runner := local.New(local.Options{
		Dir: dir, Kept: kept, KeepFor: time.Hour, Now: func() time.Time { return now },
		Workers: map[string]pipeline.Worker{runnertest.Worker: &recorder{err: errors.New("no")}},
	})
	attempt := runnertest.Attempt(time.Minute)
	attempt.Task.Name, attempt.Task.Environment.Debug = "a/b", true
	var told []string
	if _, err := runner.Run(t.Context(), attempt, notices(&told)); err == nil {
		t.Error("the task succeeded")
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "debugMode: the environment is kept until 2026-11-27T09:00:00Z, enter it with: cd "+kept) {
		t.Fatalf("told %q", told)
	}
	_, where, _ := strings.Cut(told[0], "cd ")
	for _, at := range []struct {
		now  time.Time
		kept bool
	}{{now.Add(59 * time.Minute), true}, {now.Add(time.Hour), false}} {
		if err := local.Expire(kept, at.now); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(where, "file")); (err == nil) != at.kept {
			t.Errorf("at %s the environment is there: %v", at.now, err == nil)
		}
	}
	if err := local.Expire(filepath.Join(kept, "absent"), now); err != nil {
		t.Error(err)
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	worker := &recorder{}
	runner := local.New(local.Options{
		Dir: t.TempDir(), Workers: map[string]pipeline.Worker{runnertest.Worker: worker},
		Networks: map[string]string{"vpc-1": "none", "cn-hangzhou": "host"},
		Logs:     map[string]string{"project": "/somewhere"},
	})
	for _, tt := range []struct {
		vpc, region, want string
		told              int
	}{
		{"", "", "", 0}, {"vpc-1", "cn-hangzhou", "none", 0}, {"vpc-2", "cn-hangzhou", "host", 0}, {"vpc-2", "cn-beijing", "", 1}, {"", "cn-beijing", "", 1},
	} {
		attempt := runnertest.Attempt(time.Minute)
		attempt.Task.Environment.VPC, attempt.Task.Environment.Region, attempt.Task.Environment.Log = tt.vpc, tt.region, "project/store"
		var told []string
		if _, err := runner.Run(t.Context(), attempt, notices(&told)); err != nil {
			t.Fatal(err)
		}
		if got := worker.job.Environment.Network; got != tt.want || len(told) != tt.told {
			t.Errorf("VPC %q in region %q is %q, told %q; want %q", tt.vpc, tt.region, got, told, tt.want)
		}
	}
}
