package serverless

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"slipway/internal/errs"
)

// Deployer deploys functions.
type Deployer interface {
	// Deploy deploys what an s.yaml describes. What was deployed comes back also beside an error.
	Deploy(ctx context.Context, d Deployment) ([]Deployed, error)
	// Canary publishes what is deployed as a version, and has the alias give it a share of the requests, from 0 to 1. An
	// alias that is not there is made. It returns the version.
	Canary(ctx context.Context, function, alias string, share float64) (version string, err error)
	// Release has the alias give all requests to the version that gets a part of them, and returns it.
	Release(ctx context.Context, function, alias string) (version string, err error)
}

// Deployment says what to deploy.
type Deployment struct {
	// Root is the folder of the task's files on this machine: nothing outside is read. File is the s.yaml in it.
	Root, File string
	// Environment, Access and Resource are as slipway deploy has them.
	Environment, Access, Resource string
	SkipActions                   bool
	// Env gives the variables of the step's environment.
	Env map[string]string
	// Shell runs a command of an action where steps run, in a folder below Root, and returns its exit code.
	Shell func(ctx context.Context, command, dir string) (int, error)
	// Tell hears what goes on.
	Tell func(text string)
}

// Deployed is a resource that was deployed.
type Deployed struct{ Resource, Function, Image, URL string }

// deployPlugin deploys what an s.yaml declares.
func deployPlugin() *plugin {
	return &plugin{name: scope + "s-deploy", inputs: []string{"resource", "deployArgs", "debugMode"}, run: deploy}
}

func deploy(ctx context.Context, c *call) (map[string]any, error) {
	if c.opts.Deployer == nil {
		return nil, noDeployer("s-deploy")
	}
	file := c.data("deployFile")
	if file == "" {
		file = "s.yaml"
	}
	var turn sync.Mutex // a room runs one process at a time, and resources may be deployed side by side
	d := Deployment{
		Root: c.dir.workspace, File: file, Environment: c.data("envName"), Access: c.env[aliasVariable], Resource: c.text("resource"), Env: c.env,
		Shell: func(ctx context.Context, command, dir string) (int, error) {
			turn.Lock()
			defer turn.Unlock()
			if c.room == nil {
				if err := c.open(ctx); err != nil {
					return 0, err
				}
			}
			return c.exec(ctx, c.log, Process{Args: []string{"sh", "-c", command}, Env: pairs(c.env), Dir: inside(dir)})
		},
		Tell: func(text string) { c.log.printf("%s", text) },
	}
	if err := d.arguments(c.texts("deployArgs")); err != nil {
		return nil, err
	}
	done, err := c.opts.Deployer.Deploy(ctx, d)
	outputs := map[string]any{}
	for _, r := range done {
		c.log.printf("%s: function %s is deployed: %s", r.Resource, r.Function, r.URL)
		outputs[r.Resource] = map[string]any{"functionName": r.Function, "image": r.Image, "url": map[string]any{"system_url": r.URL}}
	}
	return outputs, err
}

// arguments are those of the program s that have a meaning here.
func (d *Deployment) arguments(args []string) error {
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		switch name {
		case "-y", "--assume-yes", "--use-local", "--skip-push", "--silent", "--debug":
			continue // s asks and pushes unless it is told not to; slipway does neither
		case "--skip-actions":
			d.SkipActions = true
			continue
		case "--env", "-a", "--access":
		default:
			return errs.Mark(fmt.Errorf("deployArgs: %s has no meaning here", args[i]), errs.Invalid)
		}
		if !joined {
			if i++; i == len(args) {
				return errs.Mark(fmt.Errorf("deployArgs: %s takes a value", name), errs.Invalid)
			}
			value = args[i]
		}
		if name == "--env" {
			d.Environment = value
		} else {
			d.Access = value
		}
	}
	return nil
}

// noDeployer refuses a plugin where functions cannot be deployed.
func noDeployer(name string) error {
	return errs.Mark(errors.New(name+": functions cannot be deployed from here"), errs.Unavailable)
}

// canaryPlugin moves a part of a function's requests to a new version.
func canaryPlugin() *plugin {
	return &plugin{
		name: scope + "fc-canary", inputs: []string{"functionName", "serviceName", "aliasName", "regionId", "canaryPercent"},
		required: []string{"functionName", "aliasName"},
		run: func(ctx context.Context, c *call) (map[string]any, error) {
			if c.opts.Deployer == nil {
				return nil, noDeployer("fc-canary")
			}
			percent := 100.0
			if given := c.text("canaryPercent"); given != "" {
				n, err := strconv.ParseFloat(strings.TrimSuffix(given, "%"), 64)
				if err != nil || n <= 0 || n > 100 {
					return nil, errs.Mark(fmt.Errorf("canaryPercent %q is no share from above 0 to 100", given), errs.Invalid)
				}
				percent = n
			}
			version, err := c.opts.Deployer.Canary(ctx, c.text("functionName"), c.text("aliasName"), percent/100)
			if err != nil {
				return nil, err
			}
			c.log.printf("version %s gets %g %% of the requests of %s", version, percent, c.text("aliasName"))
			return map[string]any{"version": version}, nil
		},
	}
}

// releasePlugin moves all of them.
func releasePlugin() *plugin {
	return &plugin{
		name: scope + "fc-release", inputs: []string{"functionName", "serviceName", "aliasName", "regionId"},
		required: []string{"functionName", "aliasName"},
		run: func(ctx context.Context, c *call) (map[string]any, error) {
			if c.opts.Deployer == nil {
				return nil, noDeployer("fc-release")
			}
			version, err := c.opts.Deployer.Release(ctx, c.text("functionName"), c.text("aliasName"))
			if err != nil {
				return nil, err
			}
			c.log.printf("version %s gets all requests of %s", version, c.text("aliasName"))
			return map[string]any{"version": version}, nil
		},
	}
}
