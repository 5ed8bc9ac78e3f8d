package serverless

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// shim runs a plugin under Node.js.
//
//go:embed shim.js
var shim []byte

// The files of a plugin's call, below filesDir.
const (
	shimFile   = "shim.js"
	callFile   = "call.json"
	resultFile = "result.json"
)

// pluginDir is where packages of npm are put in the room, each in a folder of its own.
const pluginDir = "/tmp/cache/plugins"

// modulePath is what Node.js is asked for: a folder of the workspace, or a package that install has put somewhere.
func modulePath(name string) string {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "/") {
		return inside(name)
	}
	bare, _ := splitVersion(name)
	return path.Join(packageDir(name), "node_modules", bare)
}

func packageDir(name string) string { return path.Join(pluginDir, name) }

// install puts the packages that steps name into the room, before the first of them runs.
func (t *task) install(ctx context.Context, l *log, steps []step) error {
	done := map[string]bool{}
	for _, s := range steps {
		if s.plugin == "" || s.own != nil || done[s.plugin] || strings.HasPrefix(s.plugin, ".") || strings.HasPrefix(s.plugin, "/") {
			continue
		}
		done[s.plugin] = true
		l.printf("install the plugin %s", s.plugin)
		script := `command -v npm >/dev/null || { echo "npm is not in this environment: --runner-image names an image that has it" >&2; exit 127; }
mkdir -p "$1" && cd "$1" && npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$1" "$2"`
		code, err := t.exec(ctx, l, Process{Args: []string{"sh", "-c", script, "npm", packageDir(s.plugin), s.plugin}, Env: pairs(t.env), Dir: "/"})
		if err := exit(code, err); err != nil {
			return fmt.Errorf("install the plugin %s: %w", s.plugin, err)
		}
	}
	return nil
}

// nodeResult is what the shim says.
type nodeResult struct {
	Outputs any               `json:"outputs"`
	Env     map[string]string `json:"env"`
	Post    bool              `json:"post"`
}

// node runs a plugin that is not built in.
func (t *task) node(ctx context.Context, s *step, c *call) (map[string]any, error) {
	result, err := c.node(ctx, s.plugin, "run")
	if err != nil {
		return nil, err
	}
	if outputs, ok := result.Outputs.(map[string]any); ok {
		c.outputs = outputs
	}
	if result.Post {
		c.then = func(ctx context.Context, c *call) error {
			_, err := c.node(ctx, s.plugin, "postRun")
			return err
		}
		t.posts = append(t.posts, c)
	}
	return c.outputs, nil
}

// node calls a method of a plugin, and takes over the variables that it has changed.
func (c *call) node(ctx context.Context, name, method string) (nodeResult, error) {
	var result nodeResult
	if err := c.freshFiles(); err != nil {
		return result, err
	}
	data, err := json.Marshal(map[string]any{"method": method, "inputs": c.nodeInputs(), "context": c.nodeContext()})
	if err != nil {
		return result, fmt.Errorf("write the plugin's call: %w", err)
	}
	for file, content := range map[string][]byte{shimFile: shim, callFile: data} {
		if err := os.WriteFile(filepath.Join(c.dir.files, file), content, 0o600); err != nil {
			return result, fmt.Errorf("write the plugin's call: %w", err)
		}
	}
	script := `command -v node >/dev/null || { echo "node is not in this environment: --runner-image names an image that has it" >&2; exit 127; }
exec node "$@"`
	code, err := c.exec(ctx, c.log, Process{
		Args: []string{"sh", "-c", script, "node", path.Join(filesDir, shimFile), modulePath(name), path.Join(filesDir, callFile), path.Join(filesDir, resultFile)},
		Env:  pairs(c.env), Dir: Workspace,
	})
	if err := exit(code, err); err != nil {
		return result, err
	}
	data, err = c.readFile(resultFile)
	if err == nil && data == nil {
		err = errors.New("the plugin ended its process before its work was done")
	}
	if err == nil {
		err = json.Unmarshal(data, &result)
	}
	if err != nil {
		return result, fmt.Errorf("read the plugin's result: %w", err)
	}
	for name, value := range result.Env {
		if name == outputVariable || name == envVariable || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			continue
		}
		c.task.env[name] = value
		c.hideVariable(name, value)
	}
	return result, nil
}

func (c *call) nodeInputs() map[string]any {
	if c.inputs == nil {
		return map[string]any{}
	}
	return c.inputs
}

// nodeContext is what plugins of this family get as their context.
func (c *call) nodeContext() map[string]any {
	context := maps.Clone(c.values)
	context["cwd"], context["env"], context["status"], context["steps"] = Workspace, texts(c.env), string(c.status), c.results
	if c.outputs != nil {
		context["outputs"] = c.outputs // of run, for postRun
	}
	return context
}
