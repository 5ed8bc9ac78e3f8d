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
	// dirs are patterns of folders, the first that exists is taken. bin is what goes into PATH below it.
	dirs []string
	bin  []string
	home string // the variable that names the folder
	// probe is a command that prints version when the environment's own is this one.
	probe, version string
}

// runtimes are the known ones, by the names that pipelines use. The hosted system's build image has node below
// /usr/local/versions, python below /usr/local/envs, java below /usr/lib/jvm and go below gvm's folder; others use the
// places that come after.
func runtimes() map[string]runtime {
	all := map[string]runtime{"php7.2": {
		dirs: []string{"/usr/local/versions/php/7.2*", "/usr/local/php7.2"}, bin: []string{"bin"}, probe: "php --version", version: "PHP 7.2.",
	}}
	for _, v := range []string{"12", "14", "16", "18", "20", "22"} {
		all["nodejs"+v] = runtime{
			dirs: []string{"/usr/local/versions/node/v" + v + ".*", "/root/.nvm/versions/node/v" + v + ".*", "/opt/node" + v},
			bin:  []string{"bin"}, probe: "node --version", version: "v" + v + ".",
		}
	}
	for _, v := range []string{"2.7", "3.6", "3.7", "3.9", "3.10", "3.12", "3.13"} {
		all["python"+v] = runtime{
			dirs: []string{"/usr/local/envs/py" + strings.ReplaceAll(v, ".", ""), "/root/.pyenv/versions/" + v + ".*", "/opt/python" + v},
			bin:  []string{"bin"}, probe: "python --version 2>&1 || python3 --version", version: "Python " + v + ".",
		}
	}
	for _, v := range []string{"8", "11", "17"} {
		all["java"+v] = runtime{
			dirs: []string{"/usr/lib/jvm/openjdk-" + v + "[.u]*", "/usr/lib/jvm/java-" + v + "-openjdk*", "/usr/lib/jvm/temurin-" + v + "*", "/opt/java" + v},
			bin:  []string{"bin"}, home: "JAVA_HOME", probe: "java -version 2>&1", version: `"` + strings.Replace(v, "8", "1.8", 1) + ".",
		}
	}
	for _, v := range []string{"1.18", "1.19", "1.20", "1.21"} {
		all["go"+v] = runtime{
			dirs: []string{"/root/.gvm/gos/go" + v + ".*", "/usr/local/go" + v, "/opt/go" + v},
			bin:  []string{"bin"}, home: "GOROOT", probe: "go version", version: "go" + v + ".",
		}
	}
	return all
}

func (c *call) runtime(ctx context.Context, name string) error {
	all := runtimes()
	r, ok := all[name]
	if !ok {
		hint := ""
		if near := suggest.Nearest(name, slices.Values(slices.Sorted(maps.Keys(all)))); near != "" {
			hint = "; did you mean " + near + "?"
		}
		c.log.printf("%s is no runtime that is known: skipped%s", name, hint)
		return nil
	}
	script := "for d in " + strings.Join(r.dirs, " ") + `; do [ -d "$d/bin" ] && echo "$d" && exit; done; true`
	dir, err := c.ask(ctx, script)
	if err != nil {
		return err
	}
	if dir == "" {
		own, err := c.ask(ctx, r.probe+" 2>/dev/null; true")
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
	for _, bin := range slices.Backward(r.bin) {
		c.task.env["PATH"] = dir + "/" + bin + ":" + c.task.env["PATH"]
	}
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
