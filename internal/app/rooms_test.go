package app_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/app"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/isolation/isolationtest"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/spec"
)

// runSteps runs a pipeline of one task with these steps on a repository with one file, and returns what they printed.
func runSteps(t *testing.T, a *app.App, home, data, steps string) (string, *pipeline.Run, error) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	repo := t.TempDir()
	text := `kind: Pipeline
name: p
spec:
  templateSpec:
    tasks:
      - name: t
        taskTemplate: serverless-runner-task
        context:
          data:
            enable: true
            ` + data + `
            steps:
` + "              " + strings.ReplaceAll(strings.TrimSpace(steps), "\n", "\n              ") + "\n"
	for name, content := range map[string]string{"p.yaml": text, "README": "hello\n"} {
		if err := os.WriteFile(filepath.Join(repo, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first"}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = repo
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	p, err := app.Prepare(t.Context(), home, time.Now(), app.Run{Files: []string{filepath.Join(repo, "p.yaml")}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	var out strings.Builder
	run, err := a.Run(t.Context(), p, app.Listener{Events: func(e pipeline.Event) {
		switch {
		case e.Kind == pipeline.StepFinished:
			out.WriteString(e.Step.Name + ": " + string(e.Step.Status) + "\n")
		case e.Text != "":
			out.WriteString(e.Text + "\n")
		}
	}})
	return out.String(), run, err
}

const someSteps = `
- plugin: '@serverless-cd/checkout'
- run: cat README; [ -d .git ] && echo with git; echo kept > /kept; mkdir -p modules; echo in modules > modules/a; cd /; pwd
- run: cat /kept; rm /workspace/README; ls -A; echo out=1 >> $SLIPWAY_OUTPUT
  id: a
- run: echo ${{ steps.a.outputs.out }}; exit 3
- run: cat /kept modules/a; ls -A
  if: always()`

// TestSteps runs steps on an image; TestIsolated does it where slipway is not root, or has no namespaces.
func TestSteps(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	pushBases(t, registry)
	home := t.TempDir()
	a := openApp(t, home, config.Config{RunnerImage: registry + "/library/busybox:latest"})
	// Where no cgroup can be written to, tasks are refused rather than run without their limits.
	text, run, err := runSteps(t, a, home, "runnerConfig: {cpu: 1, memory: 1024, timeout: 120}", someSteps)
	if way := isolationtest.Way(); way != "" && errors.Is(err, errs.Invalid) && strings.Contains(err.Error(), "cannot be enforced here") {
		return
	}
	if e, ok := errors.AsType[*pipeline.ExitError](err); !ok || e.Code != 3 {
		t.Fatalf("Run: %v\n%s", err, text)
	}
	for _, want := range []string{"hello\nwith git\n/\n", "kept\n.git\nmodules\np.yaml\n", "1\nRun echo", "kept\nin modules\n.git\nmodules\np.yaml\n", ": failure\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if len(run.Tasks[0].Output.Steps) != 6 || run.Tasks[0].ExitCode != 3 {
		t.Errorf("record: %+v", run.Tasks[0])
	}
	for _, dir := range []string{"runs", "snapshots"} {
		left, err := filepath.Glob(filepath.Join(home, dir, "run-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// Without an image there is this machine's own, made once.
func TestStepsOnTheMachinesPackages(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	if _, err := os.Stat("/var/lib/dpkg/status"); err != nil {
		t.Skip("needs Debian packages")
	}
	home := t.TempDir()
	a, err := app.Open(app.Options{Home: home, Now: time.Now, Getenv: os.Getenv, Tools: []string{"dash"}, Isolation: here})
	if err != nil {
		t.Fatal(err)
	}
	steps := "- run: ls " + home + " || echo nothing of the machine; cat /etc/debian_version; dpkg --verify dash && echo dpkg works; id -un; touch /etc/new"
	for i, want := range []string{"making a root file system of ", "! making a root file system"} {
		text, _, err := runSteps(t, a, home, "appName: x", steps)
		if err != nil {
			t.Fatal(err, text)
		}
		absent, not := strings.CutPrefix(want, "! ")
		if strings.Contains(text, absent) == not {
			t.Errorf("run %d: %q in:\n%s", i, want, text)
		}
		for _, want := range []string{"nothing of the machine\n", "dpkg works\nroot\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("run %d: no %q in:\n%s", i, want, text)
			}
		}
	}
}

// What the workers think of the examples.
func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../../examples/pipelines/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if warnings, err := spec.Validate([]*spec.File{spec.Parse(name, data)}, spec.Options{Checkers: app.Checkers()}); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v\n%v", name, err, warnings)
		}
	}
}
