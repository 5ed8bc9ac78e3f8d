package serverless

import "context"

// deployPlugin will deploy what an s.yaml declares.
func deployPlugin() *plugin {
	const name = scope + "s-deploy"
	return &plugin{
		name: name, inputs: []string{"resource", "deployArgs", "debugMode"},
		run: func(context.Context, *call) (map[string]any, error) {
			return nil, notYet(name, "take the step out, or run the program s with run: in an image that has it (--runner-image)")
		},
	}
}

// canaryPlugin will move a part of a function's traffic to a new version.
func canaryPlugin() *plugin {
	const name = scope + "fc-canary"
	return &plugin{
		name: name, inputs: []string{"functionName", "serviceName", "aliasName", "regionId", "canaryPercent"}, required: []string{"aliasName"},
		run: func(context.Context, *call) (map[string]any, error) { return nil, notYet(name, "take the step out") },
	}
}

// releasePlugin will move all of it.
func releasePlugin() *plugin {
	const name = scope + "fc-release"
	return &plugin{
		name: name, inputs: []string{"functionName", "serviceName", "aliasName", "regionId"}, required: []string{"aliasName"},
		run: func(context.Context, *call) (map[string]any, error) { return nil, notYet(name, "take the step out") },
	}
}
