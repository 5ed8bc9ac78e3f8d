package serverless

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// npmPublishPlugin publishes the package in the workspace.
func npmPublishPlugin() *plugin {
	return &plugin{
		name: scope + "npm-publish", inputs: []string{"registry", "token", "codeDir"}, secret: []string{"token"}, room: true,
		run: npmPublish,
	}
}

// npmrcFile is npm's settings for one publication: where the token comes from, not the token.
const npmrcFile = "npmrc"

func npmPublish(ctx context.Context, c *call) (map[string]any, error) {
	registry := c.text("registry")
	if registry != "" && !strings.Contains(registry, "://") {
		registry = "https://" + strings.TrimPrefix(registry, "//")
	}
	env := map[string]string{"REGISTRY": registry, "DIR": inside(c.text("codeDir"))}
	if token := c.text("token"); token != "" {
		host := "//registry.npmjs.org/"
		if registry != "" {
			_, rest, _ := strings.Cut(registry, "://")
			host = "//" + strings.TrimSuffix(rest, "/") + "/"
		}
		if strings.ContainsAny(host, "\n=$ ") {
			return nil, fmt.Errorf("%q cannot be a registry", registry)
		}
		if err := c.freshFiles(); err != nil {
			return nil, err
		}
		settings := host + ":_authToken=${NPM_TOKEN}\n"
		if err := os.WriteFile(filepath.Join(c.dir.files, npmrcFile), []byte(settings), 0o644); err != nil {
			return nil, fmt.Errorf("write npm's settings: %w", err)
		}
		env["NPM_TOKEN"], env["NPM_CONFIG_USERCONFIG"] = token, path.Join(filesDir, npmrcFile)
	}
	code, err := c.shell(ctx, `cd "$DIR" || exit
command -v npm >/dev/null || { echo "npm is not in this environment: --runner-image names an image that has it" >&2; exit 127; }
[ -z "$REGISTRY" ] || set -- --registry "$REGISTRY"
npm publish "$@"`, env)
	if err := exit(code, err); err != nil {
		return nil, fmt.Errorf("npm publish: %w", err)
	}
	return nil, nil
}
