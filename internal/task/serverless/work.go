package serverless

import (
	"context"
	"crypto/sha1" //nolint:gosec // hashFile promises SHA-1, for cache keys
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
)

// cleanup is how long steps that run whatever happens may take, all together, after a person has canceled the run.
const cleanup = time.Minute

// task is a task at work.
type task struct {
	*Worker
	job     *pipeline.Job
	mask    *masker
	room    Room // nil when no step needs one
	dir     folders
	values  map[string]any    // the contexts that stay
	env     map[string]string // what steps find, besides their own
	results map[string]any    // the context steps
	status  pipeline.StepStatus
	records []pipeline.Step
	posts   []*call // plugins that want to be called again
	failure error   // of the first step that failed

	number    int             // of the next step
	afterward context.Context //nolint:containedctx // of steps that run after a cancel, made when the first one does
	stop      context.CancelFunc
}

// folders are a task's, on this machine.
type folders struct{ workspace, files, logs string }

// filesDir is where a step finds the files that it talks to slipway by.
const filesDir = "/run/slipway"

// Work runs the steps; see pipeline.Worker.
func (w *Worker) Work(ctx context.Context, job *pipeline.Job) (_ pipeline.Output, err error) {
	var mistakes []error
	steps := w.steps(job.Task, func(at pipeline.Origin, message, hint string) {
		mistakes = append(mistakes, errs.Hint(errs.Mark(fmt.Errorf("%s: %s", at, message), errs.Invalid), hint))
	})
	if len(mistakes) > 0 {
		return pipeline.Output{}, errors.Join(mistakes...)
	}
	t := &task{
		Worker: w, job: job, mask: &masker{}, status: pipeline.StepSuccess,
		values: w.values(job.Task), env: map[string]string{}, results: map[string]any{}, stop: func() {},
		dir: folders{filepath.Join(job.Dir, "workspace"), filepath.Join(job.Dir, "files"), filepath.Join(job.Dir, "logs")},
	}
	defer func() { err = errors.Join(err, t.close()) }()
	t.hide()
	t.run(ctx, steps)
	return pipeline.Output{Steps: t.records}, t.outcome(ctx)
}

// hide tells the masker what nobody may see.
func (t *task) hide() {
	t.mask.add(slices.Collect(maps.Values(t.opts.Secrets))...)
	t.mask.add(slices.Collect(maps.Values(t.opts.CloudSecrets))...)
	t.mask.add(t.opts.Account.AccessKeySecret, t.opts.Account.SecurityToken)
	for name, value := range t.job.Task.Env {
		t.hideVariable(name, value)
	}
}

// hideVariable hides the value of a variable whose name says that it is a secret.
func (t *task) hideVariable(name, value string) {
	name = strings.ToLower(name)
	for _, word := range []string{"secret", "password", "passwd", "token", "credential", "accesskey", "access_key", "private_key", "webhook"} {
		if strings.Contains(name, word) && len(value) >= shortestCode {
			t.mask.add(value)
		}
	}
}

func (t *task) close() error {
	t.stop()
	if t.room == nil {
		return nil
	}
	return t.room.Close()
}

func (t *task) run(ctx context.Context, steps []step) {
	t.perform(ctx, &act{name: "Set up task", do: func(ctx context.Context, l *log) (map[string]any, error) {
		return nil, t.setUp(ctx, l, steps)
	}})
	if t.status == pipeline.StepFailure {
		for i := range steps {
			t.end(t.next(t.title(&steps[i])), pipeline.StepSkipped, "")
		}
		return
	}
	for i := range steps {
		t.step(ctx, &steps[i])
	}
	for _, c := range slices.Backward(t.posts) {
		t.perform(ctx, &act{name: "Post " + c.title, always: true, do: func(ctx context.Context, l *log) (map[string]any, error) {
			c.log, c.env = l, maps.Clone(t.env)
			return nil, c.post(ctx)
		}})
	}
}

// outcome is the error of a task that is over.
func (t *task) outcome(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.failure
}

// setUp makes the folders, the room and what plugins need.
func (t *task) setUp(ctx context.Context, l *log, steps []step) error {
	for _, dir := range []string{t.dir.workspace, t.dir.files} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make the task's folders: %w", err)
		}
	}
	env := map[string]string{"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if slices.ContainsFunc(steps, needsRoom) {
		if err := t.open(ctx); err != nil {
			return err
		}
		for _, kv := range t.room.Env() {
			name, value, _ := strings.Cut(kv, "=")
			env[name] = value
		}
	}
	maps.Copy(env, t.job.Task.Env)
	t.env = env
	return t.install(ctx, l, steps)
}

func needsRoom(s step) bool { return s.run != nil || s.own == nil || s.own.room }

// open opens the room, with the task's folders and the network folders that the environment has.
func (t *task) open(ctx context.Context) (err error) {
	binds := []Bind{{t.dir.workspace, Workspace}, {t.dir.files, filesDir}}
	for _, m := range t.job.Environment.Mounts {
		if m.Folder == "" {
			err := fmt.Errorf("%s: %s is no folder of this machine", m.Origin, m.Server)
			return errs.Hint(errs.Mark(err, errs.Invalid), "--map-nas "+m.Server+"=DIR says which folder stands for it")
		}
		binds = append(binds, Bind{m.Folder, m.Dir})
	}
	t.room, err = t.opts.Rooms.Open(context.WithoutCancel(ctx), OpenRoom{
		Binds: binds, Counted: []string{t.job.Dir}, Limits: t.job.Environment.Limits, LimitsOf: t.job.Environment.Source(),
		Progress: func(event any) { t.job.Emit(pipeline.Event{Kind: pipeline.Detail, Detail: event}) },
		Notice:   t.job.Notice,
	})
	if err != nil {
		return fmt.Errorf("make a root file system: %w", err)
	}
	return nil
}

// act is something to do as a step.
type act struct {
	name     string
	id       string
	always   bool // whatever happened before
	forgiven bool
	do       func(ctx context.Context, l *log) (map[string]any, error)
}

// step does a step, or says why not.
func (t *task) step(ctx context.Context, s *step) {
	a := &act{name: t.title(s), id: s.id, always: s.condition != nil, forgiven: s.forgiven}
	a.do = func(ctx context.Context, l *log) (map[string]any, error) {
		if s.run != nil {
			return t.command(ctx, s, l)
		}
		return t.use(ctx, s, a.name, l)
	}
	if t.canceled(ctx) {
		t.status = pipeline.StepCancelled
	}
	if s.condition == nil {
		t.perform(ctx, a)
		return
	}
	v, err := s.condition.evaluate(t.scope(t.env))
	switch {
	case err != nil:
		a.do = func(context.Context, *log) (map[string]any, error) { return nil, fmt.Errorf("if: %w", err) }
		t.perform(ctx, a)
	case expr.Text(v) == "true":
		t.perform(ctx, a)
	default:
		t.skip(t.next(a.name), a.id, pipeline.StepSkipped, "its condition does not hold")
	}
}

// canceled reports whether the task was told to end.
func (t *task) canceled(ctx context.Context) bool { return ctx.Err() != nil }

// perform does an act, unless what happened before forbids it, and records what became of it.
func (t *task) perform(ctx context.Context, a *act) {
	n := t.next(a.name)
	if t.canceled(ctx) {
		t.status = pipeline.StepCancelled
		if !a.always || errors.Is(context.Cause(ctx), errs.Limit) {
			t.skip(n, a.id, pipeline.StepCancelled, "")
			return
		}
		ctx = t.afterwards(ctx)
	} else if t.status == pipeline.StepFailure && !a.always {
		t.skip(n, a.id, pipeline.StepSkipped, "a step before it failed")
		return
	}
	n.Status = pipeline.StepRunning
	t.job.Emit(pipeline.Event{Kind: pipeline.StepStarted, Step: &n})
	l, err := t.newLog(n)
	var outputs map[string]any
	if err == nil {
		outputs, err = a.do(ctx, l)
		err = errors.Join(err, l.close())
	}
	t.finish(ctx, n, a, outputs, l.errors(), err)
}

// afterwards is the time that is left for steps which run although the run was canceled.
func (t *task) afterwards(ctx context.Context) context.Context {
	if t.afterward == nil {
		cause := fmt.Errorf("steps after a cancel may take %s: %w", pipeline.Duration(cleanup), context.Cause(ctx))
		t.afterward, t.stop = context.WithTimeoutCause(context.WithoutCancel(ctx), cleanup, cause)
	}
	return t.afterward
}

func (t *task) finish(ctx context.Context, n pipeline.Step, a *act, outputs map[string]any, said string, err error) {
	n.Status = pipeline.StepSuccess
	reason := ""
	if err != nil {
		reason = t.mask.text(err.Error())
		switch {
		case t.canceled(ctx):
			n.Status, t.status = pipeline.StepCancelled, pipeline.StepCancelled
		case a.forgiven:
			n.Status = pipeline.StepErrorWithContinue
		default:
			n.Status = pipeline.StepFailure
			if t.status == pipeline.StepSuccess {
				t.status = pipeline.StepFailure
			}
			if t.failure == nil {
				t.failure = &stepError{number: n.Number, name: n.Name, err: err, text: reason}
			}
		}
	}
	if said == "" {
		said = reason
	}
	t.record(n, a.id, outputs, said)
	t.end(n, n.Status, reason)
}

func (t *task) skip(n pipeline.Step, id string, status pipeline.StepStatus, reason string) {
	n.Status = status
	t.record(n, id, nil, "")
	t.end(n, status, reason)
}

// record makes a step known to the expressions of later ones.
func (t *task) record(n pipeline.Step, id string, outputs map[string]any, problem string) {
	if id == "" {
		return
	}
	entry := map[string]any{"name": n.Name, "status": string(n.Status), "outputs": outputs}
	if outputs == nil {
		entry["outputs"] = map[string]any{}
	}
	if n.Status == pipeline.StepFailure || n.Status == pipeline.StepErrorWithContinue {
		entry["error"] = problem
	}
	t.results[id] = entry
}

func (t *task) end(n pipeline.Step, status pipeline.StepStatus, reason string) {
	n.Status = status
	t.records = append(t.records, n)
	t.job.Emit(pipeline.Event{Kind: pipeline.StepFinished, Step: &n, Text: reason})
}

func (t *task) next(name string) pipeline.Step {
	n := pipeline.Step{Number: t.number, Name: t.mask.text(name), Status: pipeline.StepPending}
	t.number++
	return n
}

// title is a step's name, or what it does.
func (t *task) title(s *step) string {
	if s.name != nil {
		if name, err := s.name.text(t.scope(t.env)); err == nil && name != "" {
			return firstLine(name)
		}
	}
	if s.run != nil {
		return "Run " + firstLine(s.run.v.String())
	}
	return "Run " + s.plugin
}

// longestTitle is how many characters of a step's name are shown.
const longestTitle = 80

func firstLine(text string) string {
	line, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	if runes := []rune(line); len(runes) > longestTitle {
		line, more = strings.TrimSpace(string(runes[:longestTitle])), true
	}
	if more {
		line += " …"
	}
	return line
}

// stepError is the failure of a step, secrets masked.
type stepError struct {
	number int
	name   string
	text   string
	err    error
}

func (e *stepError) Error() string { return fmt.Sprintf("step %d, %s: %s", e.number, e.name, e.text) }

// Unwrap returns the cause, for its kind: its text may hold a secret, and is printed by nobody.
func (e *stepError) Unwrap() error { return e.err }

// scope is what expressions of a step see.
func (t *task) scope(env map[string]string) expr.Scope {
	values := maps.Clone(t.values)
	values["env"], values["steps"], values["status"] = texts(env), t.results, string(t.status)
	is := func(status ...pipeline.StepStatus) func([]any) (any, error) {
		return func([]any) (any, error) { return slices.Contains(status, t.status), nil }
	}
	return expr.Scope{Values: values, Functions: map[string]func([]any) (any, error){
		"success":   is(pipeline.StepSuccess),
		"failure":   is(pipeline.StepFailure),
		"cancelled": is(pipeline.StepCancelled),
		"always":    func([]any) (any, error) { return true, nil },
		"hashFile":  func(args []any) (any, error) { return t.hashFile(expr.Text(args[0])) },
	}}
}

// hashFile is the SHA-1 of a file of the workspace. Links in it lead nowhere else.
func (t *task) hashFile(name string) (_ string, err error) {
	f, err := t.workspaceFile(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha1.New() //nolint:gosec // see above
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// workspaceFile opens a regular file by its path in the workspace, or by the absolute one that steps see.
func (t *task) workspaceFile(name string) (_ *os.File, err error) {
	rel, inside := strings.CutPrefix(path.Clean(name), Workspace+"/")
	if !inside && path.IsAbs(name) {
		return nil, fmt.Errorf("%s is not in %s", name, Workspace)
	}
	return regularFile(t.dir.workspace, rel)
}

// regularFile opens a file of a folder that others write to: nothing that lies elsewhere, and nothing that could block.
func regularFile(dir, name string) (_ *os.File, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	info, err := root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return nil, withoutDir(err)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, withoutDir(err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file", name), f.Close())
	}
	return f, nil
}

// withoutDir drops the system call from an error of a path: "go.sum: no such file or directory".
func withoutDir(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}
