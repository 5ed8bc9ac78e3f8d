package serverless

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"slipway/internal/suggest"
)

// runtimePlugin puts versions of languages first in the PATH of later steps, as far as the environment has them.
func runtimePlugin() *plugin {
	return &plugin{
		name: scope + "runtime-setup", inputs: []string{"runtime"}, required: []string{"runtime"}, room: true,
		run: func(ctx context.Context, c *call) (map[string]any, error) {
			for _, name := range c.texts("runtime") {
				if err := c.runtime(ctx, name); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil, nil
		},
	}
}

// runtime is where build images keep a version of a language.
type runtime struct {
	// dirs are patterns of folders, the first that exists is taken: its bin goes into PATH.
	dirs []string
	home string // the variable that names the folder
	// probe is a command that prints version when the environment's own is this one.
	probe, version string
}

// languages are those that have runtimes, with a version that pipelines often name.
func languages() map[string]string {
	return map[string]string{"go": "go1.21", "java": "java17", "nodejs": "nodejs18", "php": "php7.2", "python": "python3.10"}
}

// runtimeOf finds a runtime by its name, such as nodejs18. The hosted system's build image has node below /usr/local/versions,
// python below /usr/local/envs, java below /usr/lib/jvm and go below gvm's folder; others use the places that come after.
func runtimeOf(name string) (runtime, bool) {
	language := strings.TrimRight(name, "0123456789.")
	v := strings.TrimPrefix(name, language)
	if v == "" || strings.Trim(v, ".") != v || strings.Contains(v, "..") { // it becomes part of a script
		return runtime{}, false
	}
	r := runtime{}
	switch language {
	case "nodejs":
		r.dirs = []string{"/usr/local/versions/node/v" + v + ".*", "/root/.nvm/versions/node/v" + v + ".*", "/opt/node" + v}
		r.probe, r.version = "node --version", "v"+v+"."
	case "python":
		r.dirs = []string{"/usr/local/envs/py" + strings.ReplaceAll(v, ".", ""), "/root/.pyenv/versions/" + v + ".*", "/opt/python" + v}
		r.probe, r.version = "python --version 2>&1 || python3 --version", "Python "+v+"."
	case "java":
		r.dirs = []string{"/usr/lib/jvm/openjdk-" + v + "[.u]*", "/usr/lib/jvm/java-" + v + "-openjdk*", "/usr/lib/jvm/temurin-" + v + "*", "/opt/java" + v}
		r.home, r.probe, r.version = "JAVA_HOME", "java -version 2>&1", `"`+v+"."
		if v == "8" {
			r.version = `"1.8.`
		}
	case "go":
		r.dirs = []string{"/root/.gvm/gos/go" + v + ".*", "/usr/local/go" + v, "/opt/go" + v}
		r.home, r.probe, r.version = "GOROOT", "go version", "go"+v+"."
	case "php":
		r.dirs = []string{"/usr/local/versions/php/" + v + "*", "/usr/local/php" + v}
		r.probe, r.version = "php --version", "PHP "+v+"."
	default:
		return runtime{}, false
	}
	return r, true
}

func (c *call) runtime(ctx context.Context, name string) error {
	r, ok := runtimeOf(name)
	if !ok {
		names := slices.Sorted(maps.Values(languages()))
		c.log.printf("%s is no runtime that is known: skipped (%s)", name, runtimeHint(name, names))
		return nil
	}
	script := "for d in " + strings.Join(r.dirs, " ") + `; do [ -d "$d/bin" ] && echo "$d" && exit; done; true`
	dir, err := c.ask(ctx, script)
	if err != nil {
		return err
	}
	if dir == "" {
		own, err := c.ask(ctx, "{ "+r.probe+"; } 2>/dev/null; true")
		if err != nil {
			return err
		}
		if strings.Contains(own, r.version) {
			c.log.printf("%s: the environment's own", name)
			return nil
		}
		c.log.printf("%s is not in this environment: skipped (--runner-image names an image that has it)", name)
		return nil
	}
	c.task.env["PATH"] = dir + "/bin:" + c.task.env["PATH"]
	if r.home != "" {
		c.task.env[r.home] = dir
	}
	c.log.printf("%s: %s", name, dir)
	return nil
}

// ask runs a script and returns the first line that it prints.
func (c *call) ask(ctx context.Context, script string) (string, error) {
	var out bytes.Buffer
	code, err := c.exec(ctx, c.log, Process{
		Args: []string{"sh", "-c", script}, Env: pairs(c.env), Dir: Workspace, Stdout: &limited{max: 4096, to: &out},
	})
	line, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	return line, exit(code, err)
}

// limited keeps the beginning of what is written to it.
type limited struct {
	max int
	to  *bytes.Buffer
}

func (l *limited) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), max(0, l.max-l.to.Len()))])
	return len(p), nil
}

// runtimeHint says what a runtime's name looks like.
func runtimeHint(name string, known []string) string {
	language := strings.TrimRight(name, "0123456789.")
	if near := suggest.Nearest(language, slices.Values(slices.Sorted(maps.Keys(languages())))); near != "" && near != language {
		return "did you mean " + near + strings.TrimPrefix(name, language) + "?"
	}
	return "names are such as " + strings.Join(known, ", ")
}
