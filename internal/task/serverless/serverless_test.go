package serverless_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/spec"
	"slipway/internal/task/serverless"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// machineRooms are rooms without walls: commands run on this machine, and the paths of a room are replaced by those of the
// folders they stand for, in all that a command is given. What rooms promise about processes is tested with the sandbox.
type machineRooms struct {
	opened []serverless.OpenRoom
	err    error
}

func (m *machineRooms) Open(_ context.Context, o serverless.OpenRoom) (serverless.Room, error) {
	m.opened = append(m.opened, o)
	return &machineRoom{o}, m.err
}

type machineRoom struct{ serverless.OpenRoom }

func (m *machineRoom) Env() []string { return []string{"PATH=" + os.Getenv("PATH"), "FROM_IMAGE=yes"} }
func (m *machineRoom) Close() error  { return nil }

func (m *machineRoom) here(s string) string {
	for _, b := range m.Binds {
		s = strings.ReplaceAll(s, b.Dir, b.Folder)
	}
	return s
}

func (m *machineRoom) Run(ctx context.Context, p serverless.Process) (int, error) {
	var args []string
	for _, a := range p.Args {
		args = append(args, m.here(a))
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	for _, kv := range p.Env {
		cmd.Env = append(cmd.Env, m.here(kv))
	}
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = m.here(p.Dir), p.Stdin, p.Stdout, p.Stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode(), nil
	}
	return 0, err
}

// commit is a repository at a commit that has these files.
type commit map[string]string

func (c commit) Checkout(_ context.Context, dir string) error {
	for name, text := range c {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func facts() map[string]string {
	return map[string]string{
		"commitId": "0123456789abcdef0123456789abcdef01234567", "shortCommitId": "0123456", "branch": "main",
		"message": "fix: ${{ secrets.token }} 'x'", "cloneUrl": "https://git.example.com/team/shop.git", "repository": "shop",
	}
}

func options() serverless.Options {
	return serverless.Options{
		Rooms: &machineRooms{}, Git: facts(), Now: func() time.Time { return time.UnixMilli(1700000000000) },
		Secrets: map[string]string{"token": "s3cret/t0ken", "empty": ""}, CloudSecrets: map[string]string{"key": "cl0ud-key"},
		Account:  serverless.Account{ID: "42", AccessKeyID: "LTAI", AccessKeySecret: "acc3ss-s3cret"},
		Deployer: deployer{},
	}
}

// deployer says what it is told to do. It knows no function called missing.
type deployer struct{}

func (deployer) Deploy(ctx context.Context, d serverless.Deployment) ([]serverless.Deployed, error) {
	d.Tell(fmt.Sprintf("deploy %s of %q, environment %q, access %q, actions %v, COMMIT=%s", d.Resource, d.File, d.Environment, d.Access, !d.SkipActions, d.Env["COMMIT"]))
	code, err := d.Shell(ctx, "echo an action in $(basename $PWD)", "")
	if err != nil || code != 0 {
		return nil, fmt.Errorf("action: %d, %w", code, err)
	}
	return []serverless.Deployed{{Resource: "function", Function: "demo", Image: "a@sha256:0", URL: "http://127.0.0.1/fn/demo/"}}, nil
}

func (deployer) Canary(_ context.Context, function, alias string, share float64) (string, error) {
	if function == "missing" {
		return "", fmt.Errorf("function missing: %w", errs.NotFound)
	}
	return fmt.Sprintf("%s-%s-%g", function, alias, share), nil
}

func (deployer) Release(_ context.Context, function, alias string) (string, error) {
	return function + "-" + alias, nil
}

// resolve reads a task from a pipeline file, or returns what is wrong with it.
func resolve(name string, data []byte, w *serverless.Worker) (*pipeline.Task, spec.Errors, error) {
	variables := map[string]string{}
	for k, v := range facts() {
		variables["git."+k] = v
	}
	p, warnings, err := spec.Resolve([]*spec.File{spec.Parse(name, data)}, spec.Options{
		Variables: variables, Checkers: map[string]spec.Checker{serverless.Name: w},
	})
	if err != nil {
		return nil, warnings, err
	}
	return &p.Tasks[0], warnings, nil
}

// story runs a task and tells what happens, a line each.
func story(ctx context.Context, t *testing.T, w *serverless.Worker, task *pipeline.Task) (string, pipeline.Output, error) {
	t.Helper()
	return storyIn(ctx, t, t.TempDir(), w, task)
}

// storyIn is story in an empty folder of the test's choice.
func storyIn(ctx context.Context, t *testing.T, dir string, w *serverless.Worker, task *pipeline.Task) (string, pipeline.Output, error) {
	t.Helper()
	var mu sync.Mutex
	var out strings.Builder
	job := &pipeline.Job{
		Run: "run", Task: task, Environment: task.Environment, Dir: dir,
		Source: commit{"go.sum": "sum\n", "sub/file": "text\n", "plugin/index.js": plugin},
		Emit: func(e pipeline.Event) {
			mu.Lock()
			defer mu.Unlock()
			switch e.Kind {
			case pipeline.StepStarted:
				fmt.Fprintf(&out, "%d %s\n", e.Step.Number, e.Step.Name)
			case pipeline.Log:
				fmt.Fprintf(&out, "    %s\n", e.Text)
			case pipeline.StepFinished:
				fmt.Fprintf(&out, "%d %s: %s", e.Step.Number, e.Step.Name, e.Step.Status)
				if e.Text != "" {
					fmt.Fprintf(&out, " (%s)", e.Text)
				}
				out.WriteString("\n")
			default:
				fmt.Fprintf(&out, "%s: %s\n", e.Kind, e.Text)
			}
		},
	}
	output, err := w.Work(ctx, job)
	return strings.ReplaceAll(out.String(), job.Dir, "JOB"), output, err
}

const plugin = `exports.run = async (inputs, context, logger) => {
  logger.info('hello ' + inputs.who + ' of ' + context.git.branch + ' in ' + (process.cwd() === context.cwd ? 'its place' : process.cwd()));
  process.env.LEFT = 'behind';
  return { answer: 42 };
};
exports.postRun = async (inputs, context, logger) => { logger.info('after all, ' + context.outputs.answer); };
`

// Each folder of testdata has a pipeline.yaml and, in want.txt, what happens when its first task runs, or what is wrong
// with it. Read the diff of an -update.
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/pipeline.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(name, "node-") {
				if _, err := exec.LookPath("node"); err != nil {
					t.Skip("node is not installed")
				}
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join(filepath.Dir(file), "want.txt"), tell(t, data))
		})
	}
}

func tell(t *testing.T, data []byte) string {
	t.Helper()
	var out strings.Builder
	w := serverless.New(options())
	task, warnings, err := resolve("pipeline.yaml", data, w)
	for _, warning := range warnings {
		out.WriteString("warning: " + warning.Error() + "\n" + warning.Excerpt())
	}
	if list, ok := errors.AsType[spec.Errors](err); ok {
		for _, e := range list {
			out.WriteString("error: " + e.Error() + "\n" + e.Excerpt())
		}
		return out.String()
	}
	if err != nil {
		t.Fatal(err)
	}
	text, output, err := story(t.Context(), t, w, task)
	out.WriteString(text)
	for _, s := range output.Steps {
		fmt.Fprintf(&out, "step %d: %s\n", s.Number, s.Status)
	}
	code := 0
	if e, ok := errors.AsType[*pipeline.ExitError](err); ok {
		code = e.Code
	}
	fmt.Fprintf(&out, "end: exit %d, %v\n", code, err)
	if hint := errs.HintOf(err); hint != "" {
		out.WriteString("hint: " + hint + "\n")
	}
	return out.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s mismatch (-want +got):\n%s", path, diff)
	}
}

// yaml is a pipeline with one task that has these steps, indented by two spaces a level from "- ".
func yaml(steps string) []byte {
	head := `kind: Pipeline
name: p
spec:
  templateSpec:
    tasks:
      - name: t
        taskTemplate: serverless-runner-task
        context:
          data:
            enable: true
            steps:
`
	return []byte(head + "              " + strings.ReplaceAll(strings.TrimSpace(steps), "\n", "\n              ") + "\n")
}

func work(t *testing.T, opts serverless.Options, steps string) (string, error) {
	t.Helper()
	w := serverless.New(opts)
	task, _, err := resolve("p.yaml", yaml(steps), w)
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := story(t.Context(), t, w, task)
	return text, err
}

func TestCancel(t *testing.T) {
	t.Parallel()
	cause := errors.New("interrupted")
	for _, tt := range []struct {
		name  string
		cause error
		want  string
	}{
		{"by a person", cause, `0 Set up task
0 Set up task: success
1 Run touch started; echo up; exec sleep 100
    up
1 Run touch started; echo up; exec sleep 100: cancelled (interrupted)
2 Run echo next: cancelled
3 Run echo failed: skipped (its condition does not hold)
4 Run echo cancelled
    cancelled
4 Run echo cancelled: success
5 Run echo ${{ status }}
    cancelled
5 Run echo ${{ status }}: success
`},
		{"by a limit", errs.Mark(errors.New("no time left"), errs.Limit), `0 Set up task
0 Set up task: success
1 Run touch started; echo up; exec sleep 100
    up
1 Run touch started; echo up; exec sleep 100: cancelled (no time left)
2 Run echo next: cancelled
3 Run echo failed: skipped (its condition does not hold)
4 Run echo cancelled: cancelled
5 Run echo ${{ status }}: cancelled
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := serverless.New(options())
			task, _, err := resolve("p.yaml", yaml(`
- run: touch started; echo up; exec sleep 100
- run: echo next
- run: echo failed
  if: failure()
- run: echo cancelled
  if: ${{ cancelled() }}
- run: echo ${{ status }}
  if: ${{ always() }}`), w)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			var out strings.Builder
			job := &pipeline.Job{Task: task, Environment: task.Environment, Dir: t.TempDir(), Emit: func(e pipeline.Event) {
				switch e.Kind {
				case pipeline.StepStarted:
					fmt.Fprintf(&out, "%d %s\n", e.Step.Number, e.Step.Name)
				case pipeline.Log:
					fmt.Fprintf(&out, "    %s\n", e.Text)
					cancel(tt.cause)
				case pipeline.StepFinished:
					fmt.Fprintf(&out, "%d %s: %s", e.Step.Number, e.Step.Name, e.Step.Status)
					if e.Text != "" {
						fmt.Fprintf(&out, " (%s)", e.Text)
					}
					out.WriteString("\n")
				}
			}}
			if _, err := w.Work(ctx, job); !errors.Is(err, tt.cause) {
				t.Errorf("Work: %v, want %v", err, tt.cause)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("story mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// No secret is in anything that a task tells, however a command prints it.
func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	opts := options()
	const secret = "s3cret/t0ken"
	text, err := work(t, opts, `
- run: |
    echo plain $T; echo "user:$T" | base64; printf %s "$T" | base64; echo s3cret%2Ft0ken
    printf s3cr; sleep 0.01; printf 'et/t0ken\n'
    echo "$T" >&2; echo "out=$T" >> "$SLIPWAY_OUTPUT"; printf 'no line end %s' "$T"
  env: {T: "${{ secrets.token }}"}
  id: a
- run: echo ${{ steps.a.outputs.out }} ${{ cloudSecrets.key }} ${{ sts.accessKeySecret }}
  name: with ${{ secrets.token }}
- run: head -c 70000 /dev/zero | tr '\0' x; printf "$T"; head -c 70000 /dev/zero | tr '\0' x
  env: {T: "${{ secrets.token }}"}
- run: echo ${{ secrets.token }} >&2; exit 3
  id: bad
  continue-on-error: true
- run: echo ${{ steps.bad.error }}; exit 4`)
	if err == nil {
		t.Error("no error")
	}
	for _, form := range []string{secret, "s3cret%2Ft0ken", "czNjcmV0L3Qwa2Vu", "OnMzY3JldC90MGtlbg", "cl0ud-key", "acc3ss-s3cret"} {
		if strings.Contains(text, form) || strings.Contains(err.Error(), form) {
			t.Errorf("%s shows:\n%.3000s\n%v", form, text, err)
		}
	}
	if n := strings.Count(text, "***"); n < 10 {
		t.Errorf("masked %d times:\n%.3000s", n, text)
	}
}

// A step may put anything in the place of the files by which it talks to slipway, which reads them as root.
func TestFilesOfStepsLeadNowhere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script, want string }{
		{"link", `rm "$SLIPWAY_OUTPUT"; ln -s /etc/passwd "$SLIPWAY_OUTPUT"`, "path escapes"},
		{"pipe", `rm "$SLIPWAY_OUTPUT"; mkfifo "$SLIPWAY_OUTPUT"`, "output is not a file"},
		{"folder", `rm "$SLIPWAY_OUTPUT"; mkdir "$SLIPWAY_OUTPUT"`, "output is not a file"},
		{"too large", `head -c 1100000 /dev/zero > "$SLIPWAY_ENV"`, "more than 1048576 bytes"},
		{"not an assignment", `echo hello >> "$SLIPWAY_OUTPUT"`, "line 1: want NAME=VALUE"},
		{"open end", `printf 'a=1\nb<<END\nx\n' >> "$SLIPWAY_OUTPUT"`, "line 2: b<<END without a line END"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := work(t, options(), "- run: |\n    "+tt.script)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Work: %v, want %q", err, tt.want)
			}
		})
	}
	text, err := work(t, options(), "- run: ln -s /etc/passwd sum\n- run: echo ${{ hashFile('sum') }}")
	if err == nil || !strings.Contains(err.Error(), "path escapes") {
		t.Errorf("Work: %v\n%s", err, text)
	}
}

func TestLogFiles(t *testing.T) {
	t.Parallel()
	w := serverless.New(options())
	task, _, err := resolve("p.yaml", yaml("- run: echo ${{ secrets.token }}; echo error >&2; cat JOB/logs/step_0.log JOB/logs/step_1.log | sed 's/^/log /'"), w)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	task.Data.Get("steps").Items[0].Get("run").Text = strings.ReplaceAll(task.Data.Get("steps").Items[0].Get("run").Text, "JOB", dir)
	var lines []string
	job := &pipeline.Job{Task: task, Environment: task.Environment, Dir: dir, Emit: func(e pipeline.Event) {
		if e.Kind == pipeline.Log && strings.HasPrefix(e.Text, "log ") {
			lines = append(lines, e.Text)
		}
	}}
	if _, err := w.Work(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "logs", "step_1.log"))
	if err != nil || !strings.Contains(string(data), "***\n") || !strings.Contains(string(data), "error\n") {
		t.Errorf("step_1.log: %q, %v", data, err)
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	rooms := &machineRooms{}
	opts := options()
	opts.Rooms = rooms
	w := serverless.New(opts)
	task, _, err := resolve("p.yaml", yaml("- run: pwd"), w)
	if err != nil {
		t.Fatal(err)
	}
	task.Environment.Mounts = []pipeline.Mount{{Dir: "/mnt/cache", Server: "nas:/cache", Folder: t.TempDir()}}
	if _, _, err := story(t.Context(), t, w, task); err != nil {
		t.Fatal(err)
	}
	got := rooms.opened[0]
	if got.Limits != task.Environment.Limits || len(got.Binds) != 3 || got.Binds[2].Dir != "/mnt/cache" || len(got.Counted) != 1 {
		t.Errorf("room: %+v", got)
	}

	task.Environment.Mounts[0].Folder = ""
	_, _, err = story(t.Context(), t, w, task)
	if !errors.Is(err, errs.Invalid) || errs.HintOf(err) != "--map-nas nas:/cache=DIR says which folder stands for it" {
		t.Errorf("Work with a mount that is nowhere: %v", err)
	}
	rooms.err = errors.New("no place")
	task.Environment.Mounts = nil
	text, _, err := story(t.Context(), t, w, task)
	if err == nil || !strings.Contains(err.Error(), "step 0, Set up task: make a root file system: no place") || !strings.Contains(text, "1 Run pwd: skipped") {
		t.Errorf("Work without a room: %v\n%s", err, text)
	}

	rooms.opened = nil
	task, _, err = resolve("p.yaml", yaml("- plugin: '@serverless-cd/checkout'"), w)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := story(t.Context(), t, w, task); err != nil || len(rooms.opened) != 0 {
		t.Errorf("a task that runs no command: %v, %d rooms", err, len(rooms.opened))
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	w := serverless.New(serverless.Options{})
	task, _, err := resolve("p.yaml", yaml("- run: pwd"), w)
	if err != nil {
		t.Fatal(err)
	}
	for dir, ok := range map[string]bool{"/mnt/x": true, "/workspace2": true, "/workspace": false, "/workspace/x": false, "/proc/x": false, "/run": false, "/run/slipway": false} {
		task.Environment.Mounts = []pipeline.Mount{{Dir: dir}}
		var told []string
		w.Check(task, func(_ pipeline.Origin, message, _ string) { told = append(told, message) })
		if (len(told) == 0) != ok {
			t.Errorf("mount on %s: %v", dir, told)
		}
	}
}

// secretNames is how the tests know that Check accepts any secret when none are known.
func TestSecretsAreNotKnownToValidate(t *testing.T) {
	t.Parallel()
	steps := yaml("- run: echo ${{ secrets.anything }}")
	if _, _, err := resolve("p.yaml", steps, serverless.New(serverless.Options{})); err != nil {
		t.Errorf("without secrets: %v", err)
	}
	_, _, err := resolve("p.yaml", steps, serverless.New(options()))
	if err == nil || !strings.Contains(err.Error(), "there is no secrets.anything") {
		t.Errorf("with secrets: %v, known %v", err, slices.Sorted(maps.Keys(options().Secrets)))
	}
}
