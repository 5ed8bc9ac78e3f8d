package spec

import "math"

// This file is the table of keys: what the check knows and what the JSON schema says. A key that means nothing yet on a
// machine of one's own is here too, so that it is not called unknown.

func str(desc string) *shape                { return &shape{form: text, desc: desc} }
func name(desc string, rule *naming) *shape { return &shape{form: text, desc: desc, name: rule} }
func flag(desc string) *shape               { return &shape{form: boolean, desc: desc} }
func free(desc string) *shape               { return &shape{form: anything, desc: desc} }

func strs(desc string) *shape    { return &shape{form: list, desc: desc, items: str("")} }
func strMap(desc string) *shape  { return &shape{form: object, desc: desc, own: true, items: str("")} }
func freeMap(desc string) *shape { return &shape{form: object, desc: desc, own: true} }

func closed(desc string, keys ...key) *shape { return &shape{form: object, desc: desc, keys: keys} }

func need(name string, sh *shape) key { return key{name, sh, true} }
func may(name string, sh *shape) key  { return key{name, sh, false} }

// documentShape returns the shape of a kind of document, nil for an unknown kind.
func documentShape(kind string) *shape {
	switch kind {
	case KindPipeline:
		return document(kind, "One execution of a pipeline.", name("Names the execution; globally unique in the hosted system.", resourceName()), pipelineSpec())
	case KindPipelineTemplate:
		return document(kind, "Tasks that pipelines run by spec.templateName.", name("What a pipeline's templateName refers to.", resourceName()), templateSpec())
	case KindTaskTemplate:
		return document(kind, "A kind of task, named by taskTemplate.", name("What a task's taskTemplate refers to.", resourceName()), taskTemplateSpec())
	case KindPipelineTrigger:
		return document(kind, "Runs a pipeline on an event of the repository.", name("Names the trigger.", triggerName()), triggerSpec())
	default:
		return nil
	}
}

// document is what all kinds share, with the fields that the hosted system's server adds when it prints one.
func document(kind, desc string, name, spec *shape) *shape {
	return closed(desc,
		need("kind", &shape{form: text, desc: "The kind of document.", enum: []string{kind}}),
		need("name", name),
		may("description", str("For people.")),
		may("labels", strMap("For filtering.")),
		need("spec", spec),
		may("status", free("Written by the server.")),
		may("uid", free("Written by the server.")),
		may("generation", free("Written by the server.")),
		may("resourceVersion", free("Written by the server.")),
		may("createdTime", free("Written by the server.")),
		may("deletionTime", free("Written by the server.")),
	)
}

func pipelineSpec() *shape {
	return closed("What to run.",
		may("templateName", str("The PipelineTemplate to run; ignored when templateSpec is given.")),
		may("templateSpec", templateSpec()),
		may("context", context("Beats the template's context; a task's own context beats it.")),
	)
}

func templateSpec() *shape {
	return closed("The tasks and what they share.",
		may("context", context("What all tasks share; spec.context and a task's own context beat it.")),
		need("tasks", &shape{form: list, desc: "The tasks. All start at once but for what runAfters says.", items: task()}),
	)
}

func task() *shape {
	return closed("A task of the pipeline.",
		need("name", name("Unique in the pipeline; runAfters refers to it.", aliasName())),
		need("taskTemplate", str("What the task does: build-image-task, serverless-runner-task, need-approval, or a TaskTemplate of one's own.")),
		may("context", context("The task's own context; beats all others.")),
		may("runAfters", &shape{form: list, desc: "The tasks that must have succeeded, or been skipped, before.", items: runAfter()}),
	)
}

func runAfter() *shape {
	sh := closed("A task that must come before.", need("name", str("The task's name.")))
	sh.or = str("The task's name.")
	return sh
}

func taskTemplateSpec() *shape {
	return closed("What a task of this template is.",
		may("description", str("For people.")),
		need("worker", closed("Who does the task.",
			need("presetWorker", &shape{form: text, desc: "The worker.", enum: []string{workerBuildImage, workerServerless, workerApproval}}))),
		may("context", context("Presets; every other context beats it.")),
		may("executeCondition", closed("When the task runs; without it, always.",
			need("expression", str("A condition on context.data, such as: enable == true")))),
		may("contextSchema", free("Documentation of the keys in context.data.")),
	)
}

func triggerSpec() *shape {
	return closed("When to run what.",
		may("eventFilter", closed("The events that run the pipeline.",
			may("push", closed("A push.", may("branch", str("A regular expression.")), may("tag", str("A regular expression.")))),
			may("pullRequest", closed("A pull request.",
				may("sourceBranch", str("A regular expression.")),
				may("targetBranch", str("A regular expression.")),
				may("types", &shape{form: list, desc: "What happened to it; empty means anything.", items: &shape{
					form: text, enum: []string{"opened", "closed", "merged", "reopened", "updated"},
				}}))))),
		need("runPipeline", closed("The pipeline to run.",
			may("yamlFilePath", str("The file in the repository; beats the other two.")),
			may("yamlFileContent", str("The file's text; beats pipelineSpec.")),
			may("pipelineSpec", free("The pipeline's spec.")),
			may("variables", free("Variables of the run.")))),
		may("roleArn", str("A role of the hosted system.")),
	)
}

func context(desc string) *shape {
	return closed(desc, may("data", contextData()))
}

// contextData is free: the keys below mean something, others are the users' own, to be read as ${{ ctx.data.x }}.
func contextData() *shape {
	sh := closed("What the tasks read. Keys of your own are allowed.",
		may("displayName", str("What the console shows instead of the task's name.")),
		may("enable", flag("Runs the task. Without it the task is skipped.")),
		may("build", buildShape()),
		may("warm", warmShape()),
		may("steps", &shape{form: list, desc: "The steps of a serverless-runner-task.", items: stepShape()}),
		may("retries", &shape{form: whole, desc: "Tries after a failure of the infrastructure. Default: 2 for build-image-task, else 0.", least: 0, most: 10}),
		may("envVars", strMap("Environment variables of the task.")),
		may("runnerConfig", runnerConfig()),
		may("dingdingNotification", notification()),
		may("deployFile", str("The s.yaml to deploy.")),
		may("appName", str("The application's name.")),
		may("envName", str("The environment's name.")),
		may("projectName", str("The project's name.")),
		may("infraStackName", str("The infrastructure stack's name.")),
	)
	sh.own, sh.def = true, "contextData"
	return sh
}

// Nothing is required below context.data: a lower context may give what this one leaves out. What a task lacks after
// the merge its worker says.

func buildShape() *shape {
	return closed("Builds an image and pushes it (build-image-task).",
		may("dockerfile", str("The Dockerfile, relative to the repository. Default: ./Dockerfile.")),
		may("context", str("The build context, relative to the repository. Default: the Dockerfile's folder.")),
		may("image", str("The reference to push to.")),
		may("cacheDir", str("The folder with the base images that warm brought.")),
		may("instanceID", str("The ACR Enterprise instance.")),
		may("args", strMap("Build arguments, for ARG.")),
		may("target", str("The stage to build. Default: the last.")),
		may("platforms", strs("os/arch[/variant]; several make an index. Default: the machine's.")),
		may("tags", strs("More to push to: a tag beside image's, or a whole reference with a slash in it.")),
		may("secrets", &shape{form: list, desc: "Values for RUN --mount=type=secret.", items: closed("A secret.",
			need("id", str("What RUN calls it.")),
			may("env", str("The variable of the task's environment that holds it.")),
			may("file", str("The file that holds it: in the repository, or in a NAS mount.")))}),
		may("cache", cacheShape()),
		may("acceleration", closed("Makes an accelerated image beside the plain one, as a tag that ends with _accelerated does.",
			may("format", &shape{form: text, desc: "Default: acr for an ACR Enterprise instance, else estargz.", enum: []string{"estargz", "zstdchunked", "overlaybd", "acr"}}),
			may("level", &shape{form: whole, desc: "The effort of compression. Default: the format's.", least: 1, most: 22}),
			may("timeout", &shape{form: whole, desc: "Seconds to wait for what the registry makes. Default: 900.", least: 1, most: 86400}))),
	)
}

// cacheShape is a reference, or lists of what is read and written.
func cacheShape() *shape {
	place := func(more ...key) *shape {
		sh := closed("A cache.", append([]key{
			may("type", &shape{form: text, desc: "Default: registry with ref, local with dir.", enum: []string{"registry", "local", "inline"}}),
			may("ref", str("A tag of a registry.")),
			may("dir", str("A folder, usually in a NAS mount.")),
		}, more...)...)
		sh.or = str("A tag of a registry.")
		return sh
	}
	sh := closed("Where results of steps are kept outside the machine.",
		may("from", &shape{form: list, desc: "Read.", items: place()}),
		may("to", &shape{form: list, desc: "Written.", items: place(
			may("mode", &shape{form: text, desc: "min keeps the image's own stages (the default), max all.", enum: []string{"min", "max"}}))}),
	)
	sh.or = str("A tag of a registry, read and written with mode max.")
	return sh
}

func warmShape() *shape {
	return closed("Brings base images into a cache folder (build-image-task).",
		may("images", strs("The base images.")),
		may("cacheDir", str("The cache folder, usually in a NAS mount.")),
		may("instanceID", str("The ACR Enterprise instance.")),
	)
}

func stepShape() *shape {
	return closed("A step: a command (run) or a plugin.",
		may("run", str("The command, for sh.")),
		may("plugin", str("The plugin: a built-in one, a folder of the repository, or a package of npm.")),
		may("inputs", freeMap("What the plugin gets.")),
		may("id", str("The name by which expressions of later steps know it.")),
		may("name", str("What people see. Default: what the step does.")),
		may("env", strMap("Environment variables of the step.")),
		may("working-directory", str("Where the command runs. Default: the workspace.")),
		may("if", free("When the step runs, as an expression. Default: when no step before it failed.")),
		may("continue-on-error", flag("Lets the task go on when the step fails.")),
		may("uses", free("Called plugin here.")),
		may("script", free("Not supported: use run.")),
	)
}

func runnerConfig() *shape {
	return closed("A dedicated environment for the task. Without it: 4 vCPU, 8 GB of memory, 10 GB of disk, 15 minutes.",
		may("cpu", &shape{form: decimal, desc: "vCPU.", least: 0.05, most: 1024}),
		may("memory", &shape{form: whole, desc: "MB; from 1 to 4 GB for each vCPU.", least: 64, most: 1 << 24}),
		may("diskSize", &shape{form: whole, desc: "MB.", least: 1, most: math.MaxInt32}),
		may("timeout", &shape{form: whole, desc: "Seconds. Default: 600.", least: 1, most: 86400}),
		may("environmentVariables", strMap("Environment variables of the task.")),
		may("nasConfig", closed("Network folders.",
			may("groupId", &shape{form: whole, desc: "The group that files belong to.", least: 0, most: math.MaxInt32}),
			may("userId", &shape{form: whole, desc: "The user that files belong to.", least: 0, most: math.MaxInt32}),
			may("mountPoints", &shape{form: list, desc: "The folders.", items: closed("A network folder.",
				need("mountDir", str("The absolute path inside the environment.")),
				need("serverAddr", str("The NAS address, SERVER:/PATH.")),
				may("enableTLS", flag("Encrypts the connection.")))}))),
		may("ossMountConfig", free("Object storage as a folder.")),
		may("regionId", str("The region, in the hosted system.")),
		may("vpcConfig", closed("The network, in the hosted system.",
			may("vpcId", str("The network.")),
			may("vSwitchIds", strs("Its parts.")),
			may("securityGroupId", str("Its rules.")))),
		may("logConfig", closed("Where logs go.",
			may("project", str("The project.")),
			may("logstore", str("The store in it.")))),
		may("debugMode", flag("Keeps the environment for a while after the task.")),
	)
}

func notification() *shape {
	return closed("A DingTalk message when a task ends.",
		may("enable", flag("Sends the message.")),
		may("skipOnSuccess", flag("Sends it for failures alone.")),
		may("webhook", str("The robot's address.")),
		may("secret", str("The robot's signing secret.")),
		may("message", freeMap("The message.")),
	)
}
