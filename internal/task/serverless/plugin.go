package serverless

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
	"slipway/internal/suggest"
)

// scope of the plugins that slipway has built in: what npm calls the part of a name before the slash.
const scope = "@serverless-cd/"

// plugin is a built-in plugin.
type plugin struct {
	name string // with its scope
	// inputs are the names of all that it takes, required of those it cannot do without, secret of those nobody may see.
	inputs, required, secret []string
	// room says that it runs commands in the room.
	room bool
	// check reports what is wrong with inputs beyond their names.
	check func(in *pipeline.Value, report pipeline.Report)
	// run does the step, and returns its outputs.
	run func(ctx context.Context, c *call) (map[string]any, error)
	// post is called when all steps are over, whatever became of them. May be nil.
	post func(ctx context.Context, c *call) error
}

// plugins is the table of what is built in.
func plugins() []*plugin {
	return []*plugin{
		checkoutPlugin(), setupPlugin(), deployPlugin(), runtimePlugin(), cachePlugin(), dingTalkPlugin(), npmPublishPlugin(),
		emailPlugin(), canaryPlugin(), releasePlugin(),
	}
}

// call is one use of a plugin by a step.
type call struct {
	*task
	log    *log
	title  string
	inputs map[string]any
	// env is what the step finds; variables for later steps are set in task.env.
	env     map[string]string
	outputs map[string]any // of run, for post

	then func(ctx context.Context, c *call) error
}

// find returns the built-in plugin of a name, or nil for one that Node.js is to run. The error says that there can be no
// such plugin.
func find(name string) (*plugin, error) {
	if strings.HasPrefix(name, "./") || strings.HasPrefix(name, "../") || strings.HasPrefix(name, "/") {
		return nil, nil
	}
	bare, version := splitVersion(name)
	var full, short []string
	for _, p := range plugins() {
		if p.name == bare {
			return p, nil
		}
		full, short = append(full, p.name), append(short, strings.TrimPrefix(p.name, scope))
	}
	unknown := errors.New("there is no plugin " + name)
	if near := suggest.Nearest(bare, slices.Values(full)); near != "" && strings.Contains(bare, "/") {
		return nil, errs.Hint(unknown, "did you mean "+near+"?")
	}
	if slices.Contains(short, bare) {
		return nil, errs.Hint(unknown, "did you mean "+scope+bare+"?")
	}
	if !isPackage(bare) || version != "" && !isVersion(version) {
		return nil, errs.Hint(unknown, "name one that is built in ("+strings.Join(short, ", ")+", each after "+scope+"), a folder such as ./plugin, or a package of npm")
	}
	return nil, nil
}

// splitVersion takes the version off a package: @a/b@1.2 is @a/b and 1.2.
func splitVersion(name string) (bare, version string) {
	if i := strings.LastIndexByte(name, '@'); i > 0 {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// isPackage reports whether npm would take a name: words of few characters, with a scope or without.
func isPackage(name string) bool {
	if rest, scoped := strings.CutPrefix(name, "@"); scoped {
		scope, bare, ok := strings.Cut(rest, "/")
		return ok && isWord(scope, "-._~") && isWord(bare, "-._~")
	}
	return isWord(name, "-._~")
}

func isVersion(version string) bool { return isWord(version, "-._+^~") }

func isWord(s, signs string) bool {
	if s == "" || s[0] == '.' || s[0] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(signs, r)
	}) < 0
}

// use does a step that is a plugin.
func (t *task) use(ctx context.Context, s *step, title string, l *log) (map[string]any, error) {
	c := &call{task: t, log: l, title: title}
	for _, v := range s.env { // of a plugin they stay, as what it does to its environment
		value, err := v.value.text(t.scope(t.env))
		if err != nil {
			return nil, err
		}
		t.env[v.name] = value
		t.hideVariable(v.name, value)
	}
	c.env = maps.Clone(t.env)
	in, err := s.inputs.evaluate(t.scope(c.env))
	if err != nil {
		return nil, err
	}
	c.inputs, _ = in.(map[string]any) // nothing else gets past Check
	if s.own == nil {
		return t.node(ctx, s, c)
	}
	for _, name := range s.own.secret {
		t.mask.add(expr.Text(c.inputs[name]))
	}
	if s.own.post != nil {
		c.then = s.own.post
		t.posts = append(t.posts, c)
	}
	c.outputs, err = s.own.run(ctx, c)
	return c.outputs, err
}

// post calls a plugin again, when all steps are over.
func (c *call) post(ctx context.Context) error { return c.then(ctx, c) }

// text is an input as a text, "" when it is absent.
func (c *call) text(name string) string { return expr.Text(c.inputs[name]) }

// texts is an input that is a list of texts, or one of them.
func (c *call) texts(name string) []string {
	switch v := c.inputs[name].(type) {
	case nil:
		return nil
	case []any:
		var all []string
		for _, item := range v {
			all = append(all, expr.Text(item))
		}
		return all
	default:
		return []string{expr.Text(v)}
	}
}

// data is a text of the task's context.data.
func (c *call) data(path ...string) string {
	v := plain(c.job.Task.Data)
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[name]
	}
	return expr.Text(v)
}

// shell runs a script in the room, with variables over the step's.
func (c *call) shell(ctx context.Context, script string, more map[string]string) (int, error) {
	env := maps.Clone(c.env)
	maps.Copy(env, more)
	return c.exec(ctx, c.log, Process{Args: []string{"sh", "-c", script}, Env: pairs(env), Dir: Workspace})
}
