package serverless

import (
	"context"
	"fmt"
)

// setupPlugin gives the program s, where the environment has it, the account that the task acts for. slipway itself needs
// no setting up.
func setupPlugin() *plugin {
	return &plugin{
		name: scope + "s-setup", inputs: []string{"alias", "credentials"}, secret: []string{"credentials"}, room: true,
		run: setup,
	}
}

// aliasVariable makes s take an alias for every command.
const aliasVariable = "serverless_devs_access_cicd_alias_name"

func setup(ctx context.Context, c *call) (map[string]any, error) {
	alias := c.text("alias")
	if alias == "" {
		alias = "default"
	}
	account := c.account()
	code, err := c.exec(ctx, c.log, Process{Args: []string{"sh", "-c", "command -v s >/dev/null"}, Env: pairs(c.env), Dir: Workspace})
	switch {
	case err != nil:
		return nil, err
	case code != 0:
		c.log.printf("the program s is not in this environment: nothing to set up")
		return nil, nil
	case account.AccessKeyID == "" || account.AccessKeySecret == "":
		c.log.printf("there is no account to set up: ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET are not set")
		return nil, nil
	}
	// The values are not part of the script: nothing in them means anything to the shell.
	script := `s --version &&
set -- config add --AccessKeyID "$KEY_ID" --AccessKeySecret "$KEY_SECRET" --access "$ALIAS" -f
[ -z "$ACCOUNT" ] || set -- "$@" --AccountID "$ACCOUNT"
[ -z "$TOKEN" ] || set -- "$@" --SecurityToken "$TOKEN"
s "$@" || exit
[ -n "$ENV_NAME" ] || exit 0
set -- env init --name "$ENV_NAME" --access "$ALIAS"
[ -z "$STACK" ] || set -- "$@" --infra-stack-name "$STACK"
s "$@" && s env default --name "$ENV_NAME"`
	code, err = c.shell(ctx, script, map[string]string{
		"KEY_ID": account.AccessKeyID, "KEY_SECRET": account.AccessKeySecret, "TOKEN": account.SecurityToken, "ACCOUNT": account.ID,
		"ALIAS": alias, "ENV_NAME": c.data("envName"), "STACK": c.data("infraStackName"),
	})
	if err := exit(code, err); err != nil {
		return nil, fmt.Errorf("s config add: %w", err)
	}
	c.task.env[aliasVariable] = alias
	return nil, nil
}

// account is the one that the step names, or the task's.
func (c *call) account() Account {
	given, ok := c.inputs["credentials"].(map[string]any)
	if !ok {
		return c.opts.Account
	}
	a := Account{}
	for name, field := range map[string]*string{
		"accountId": &a.ID, "accessKeyId": &a.AccessKeyID, "accessKeySecret": &a.AccessKeySecret, "securityToken": &a.SecurityToken,
		"AccountID": &a.ID, "AccessKeyID": &a.AccessKeyID, "AccessKeySecret": &a.AccessKeySecret, "SecurityToken": &a.SecurityToken,
	} {
		if v, ok := given[name].(string); ok && v != "" {
			*field = v
		}
	}
	c.mask.add(a.AccessKeySecret, a.SecurityToken)
	return a
}
