package sfile

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"slipway/internal/suggest"
)

// kind is what a property takes.
type kind uint8

const (
	anyKind kind = iota
	textKind
	numberKind
	boolKind
	listKind
	mapKind
	// textMapKind is a map of names to texts.
	textMapKind
	// autoKind is a map, or the word auto.
	autoKind
)

var kindNames = map[kind]string{
	textKind: "a string", numberKind: "a number", boolKind: "true or false", listKind: "a list", mapKind: "a map",
	textMapKind: "a map of strings", autoKind: "a map, or auto",
}

// prop describes one property of fc3: the checks, and the words for the JSON schema.
type prop struct {
	name, about string
	kind        kind
	required    bool
	min, max    float64 // of a number; both zero: no bounds
	step        float64 // a number is a multiple of it; zero: any
	enum        []string
	fields      []prop // of a map; none: any
	items       *prop  // of a list
}

func text1(name, about string) prop { return prop{name: name, about: about, kind: textKind} }

func number1(name, about string, low, high float64) prop {
	return prop{name: name, about: about, kind: numberKind, min: low, max: high}
}

func bool1(name, about string) prop { return prop{name: name, about: about, kind: boolKind} }

func needed(p prop) prop {
	p.required = true
	return p
}

func texts1(name, about string) prop {
	return prop{name: name, about: about, kind: listKind, items: &prop{kind: textKind}}
}

func object(name, about string, fields ...prop) prop {
	return prop{name: name, about: about, kind: mapKind, fields: fields}
}

func listOf(name, about string, fields ...prop) prop {
	return prop{name: name, about: about, kind: listKind, items: &prop{kind: mapKind, fields: fields}}
}

func auto(p prop) prop {
	p.kind = autoKind
	return p
}

func oneOf(p prop, words ...string) prop {
	p.enum = words
	return p
}

// runtimeContainer is the runtime that takes an image.
const runtimeContainer = "custom-container"

// builtinRuntimes are those that take code instead of an image.
var builtinRuntimes = []string{
	"custom", "custom.debian10", "custom.debian11", "custom.debian12", "go1", "java8", "java11", "nodejs6", "nodejs8", "nodejs10", "nodejs12",
	"nodejs14", "nodejs16", "nodejs18", "nodejs20", "php7.2", "python2.7", "python3", "python3.6", "python3.9", "python3.10", "python3.12", "dotnetcore2.1", "dotnetcore3.1",
}

// fc3Props are the properties of the component fc3, version 3 of Function Compute.
func fc3Props() []prop {
	health := object("healthCheckConfig", "When an instance counts as healthy.",
		text1("httpGetUrl", "The path that is asked for, such as /health."),
		number1("initialDelaySeconds", "Seconds to wait before the first question. Default: 0.", 0, 120),
		number1("periodSeconds", "Seconds between questions. Default: 3.", 1, 120),
		number1("timeoutSeconds", "Seconds to wait for an answer. Default: 1.", 1, 3),
		number1("failureThreshold", "Failures in a row that make it unhealthy. Default: 3.", 1, 120),
		number1("successThreshold", "Successes in a row that make it healthy. Default: 1.", 1, 120))
	hook := func(name, about string) prop {
		return object(name, about, text1("handler", "The handler, for runtimes with code."), texts1("command", "A command to run."),
			number1("timeout", "Seconds it may take.", 1, 86400))
	}
	memory := number1("memorySize", "Memory in MB, a multiple of 64. Default: 512.", 128, 32768)
	memory.step = 64
	cpu := number1("cpu", "vCPU, a multiple of 0.05. Default: 0.35.", 0.05, 16)
	cpu.step = 0.05
	disk := number1("diskSize", "Disk in MB: 512 or 10240. Default: 512.", 512, 10240)
	disk.step = 0
	return []prop{
		needed(text1("region", "The region, such as cn-hangzhou.")),
		needed(text1("functionName", "The function's name.")),
		needed(text1("runtime", "custom-container takes an image.")),
		text1("description", "What the function is for."),
		text1("handler", "The handler, for runtimes with code."),
		{name: "code", about: "The code, for runtimes without an image."},
		object("customContainerConfig", "The image, and how to start it.",
			needed(text1("image", "The image's reference.")),
			number1("port", "The port that the program listens on. Default: 9000.", 1, 65535),
			texts1("entrypoint", "The command to start, in place of the image's."),
			texts1("command", "Its arguments, in place of the image's."),
			health,
			object("registryConfig", "A registry that is not in the same account.",
				object("authConfig", "Credentials.", text1("userName", "User."), text1("password", "Password.")),
				object("certConfig", "Certificates.", bool1("insecure", "Accept any."), text1("rootCaCertBase64", "The authority's certificate.")),
				object("networkConfig", "The network.", text1("vpcId", "VPC."), text1("vSwitchId", "Switch."), text1("securityGroupId", "Group."))),
			text1("instanceID", "The ACR instance, of older files."), text1("accelerationType", "Of older files."), object("accelerationInfo", "Of older files.")),
		object("customRuntimeConfig", "How to start a custom runtime.", texts1("command", "Command."), texts1("args", "Arguments."), number1("port", "Port.", 1, 65535), health),
		cpu, memory, disk,
		number1("timeout", "Seconds that a request may take. Default: 3.", 1, 86400),
		number1("instanceConcurrency", "Requests that an instance answers at once. Default: 1.", 1, 200),
		bool1("internetAccess", "Whether the function reaches the internet. Default: true."),
		{name: "environmentVariables", about: "Variables of the function's environment.", kind: textMapKind},
		text1("role", "The role whose credentials the function gets."),
		bool1("disableOndemand", "Answer with provisioned instances alone."),
		text1("disableInjectCredentials", "Where credentials are not given to the function: None, Env, Request or All."),
		auto(object("vpcConfig", "The network.", text1("vpcId", "VPC."), texts1("vSwitchIds", "Switches."), text1("securityGroupId", "Group."))),
		auto(object("nasConfig", "Network folders.", number1("userId", "User.", -1, math.MaxInt32), number1("groupId", "Group.", -1, math.MaxInt32),
			listOf("mountPoints", "Folders.", needed(text1("serverAddr", "SERVER:/PATH.")), needed(text1("mountDir", "Where in the instance.")), bool1("enableTLS", "Encrypt.")))),
		auto(object("ossMountConfig", "Buckets as folders.", listOf("mountPoints", "Buckets.", needed(text1("bucketName", "Bucket.")), text1("bucketPath", "Path."),
			text1("endpoint", "Endpoint."), needed(text1("mountDir", "Where in the instance.")), bool1("readOnly", "Read only.")))),
		auto(object("logConfig", "Where logs go.", text1("project", "Project."), text1("logstore", "Logstore."), bool1("enableRequestMetrics", "Of requests."),
			bool1("enableInstanceMetrics", "Of instances."), oneOf(text1("logBeginRule", "Where a record begins."), "None", "DefaultRegex"), bool1("enableLlmMetrics", "Of models."))),
		object("gpuConfig", "A GPU.", text1("gpuType", "Its type."), number1("gpuMemorySize", "Its memory in MB.", 1024, 98304)),
		object("instanceLifecycleConfig", "What to call at the beginning and the end of an instance.",
			hook("initializer", "Before the first request."), hook("preStop", "Before it is stopped.")),
		{name: "layers", about: "Layers of code.", kind: listKind},
		object("customDNS", "Names and servers.", texts1("nameServers", "Servers."), texts1("searches", "Domains."), listOf("dnsOptions", "Options.", text1("name", "Name."), text1("value", "Value."))),
		{name: "tags", about: "Tags."},
		object("tracingConfig", "Tracing."),
		object("asyncInvokeConfig", "Calls that nobody waits for.", object("destinationConfig", "Where results go."), number1("maxAsyncEventAgeInSeconds", "Seconds an event is kept.", 1, 2592000),
			number1("maxAsyncRetryAttempts", "Retries.", 0, 8), bool1("asyncTask", "Keep a record of each."), text1("qualifier", "Version or alias.")),
		object("concurrencyConfig", "Bounds on instances.", number1("reservedConcurrency", "Instances kept for the function.", 0, 1e6)),
		object("provisionConfig", "Instances that always run."), object("scalingConfig", "Instances that always run, newer form."),
		{name: "vpcBinding", about: "Networks that may call it."},
		object("customDomain", "Domains."), object("annotations", "Annotations."),
		text1("sessionAffinity", "Keep a session on an instance."),
		{name: "sessionAffinityConfig", about: "How."},
		text1("resourceGroupId", "The resource group."), number1("idleTimeout", "Seconds until an idle instance is stopped.", 0, 86400),
		text1("isolationMode", "Isolation."), text1("instanceIsolationMode", "Isolation of instances."), object("polarFsConfig", "PolarFS."),
		bool1("enableLongLiving", "Instances that live on."), bool1("deletionProtection", "Refuse to delete it."),
		listOf("triggers", "What calls the function.",
			needed(text1("triggerName", "Its name.")),
			needed(oneOf(text1("triggerType", "Its type."), "http", "timer", "oss", "log", "mns_topic", "cdn_events", "eventbridge", "tablestore")),
			text1("description", "What for."), text1("qualifier", "The version or alias. Default: LATEST."), text1("invocationRole", "Role."), text1("sourceArn", "Source."),
			object("triggerConfig", "What its type needs.")),
	}
}

// checkProps checks the properties of a resource, as far as they are known before anything is deployed.
func (l *loader) checkProps(r *Resource, props map[string]any) {
	c := checker{loader: l, at: r.at}
	c.fields(r.props, props, fc3Props(), "")
	runtime, _ := props["runtime"].(string)
	at := r.props.get("runtime").place(r.at)
	switch {
	case runtime == runtimeContainer:
		if _, ok := props["customContainerConfig"]; !ok {
			l.fail(at, "custom-container needs a customContainerConfig", "customContainerConfig: {image: …}")
		}
	case slices.Contains(builtinRuntimes, runtime):
		l.fail(at, "the runtime "+runtime+" takes code, and slipway deploys images", "put the code into an image: runtime: custom-container, customContainerConfig: {image: …}")
	case runtime != "":
		l.fail(at, "unknown runtime "+runtime, "slipway deploys images: runtime: custom-container")
	}
	if size, ok := number(props["diskSize"]); ok && size != 512 && size != 10240 {
		l.fail(r.props.get("diskSize").place(r.at), "diskSize is 512 or 10240", "")
	}
	if props["provisionConfig"] != nil && props["scalingConfig"] != nil {
		l.fail(r.props.get("scalingConfig").place(r.at), "provisionConfig and scalingConfig exclude one another", "keep scalingConfig")
	}
}

type checker struct {
	loader *loader
	at     place
}

func (c checker) fields(written *value, got map[string]any, known []prop, where string) {
	for _, m := range written.entries() {
		i := slices.IndexFunc(known, func(p prop) bool { return p.name == m.key })
		if i < 0 {
			hint := ""
			if near := suggest.Nearest(m.key, func(yield func(string) bool) {
				for _, p := range known {
					if !yield(p.name) {
						return
					}
				}
			}); near != "" {
				hint = "did you mean " + near + "?"
			}
			c.loader.warn(m.at, "unknown property "+where+m.key, hint)
			continue
		}
		if v, ok := got[m.key]; ok {
			c.value(m.value, v, known[i], where+m.key)
		}
	}
	for _, p := range known {
		if v := written.get(p.name); p.required && v.absent() {
			c.loader.fail(written.place(c.at), "the property "+where+p.name+" is missing", p.about)
		}
	}
}

func (c checker) value(written *value, v any, p prop, where string) {
	at := written.place(c.at)
	switch v.(type) {
	case deferred, missing:
		return
	}
	ok := true
	switch p.kind {
	case anyKind:
	case textKind:
		switch v.(type) {
		case map[string]any, []any:
			ok = false
		}
	case boolKind:
		_, isBool := v.(bool)
		ok = isBool || v == "true" || v == "false"
	case numberKind:
		n, isNumber := number(v)
		if ok = isNumber; ok {
			c.number(at, n, p, where)
		}
	case listKind:
		items, isList := v.([]any)
		if ok = isList; ok && p.items != nil {
			for i, item := range items {
				var below *value
				if list := written.itemsOrNone(); i < len(list) {
					below = list[i]
				}
				c.value(below, item, *p.items, fmt.Sprintf("%s[%d]", where, i))
			}
		}
	case mapKind, autoKind, textMapKind:
		m, isMap := v.(map[string]any)
		word, _ := v.(string)
		ok = isMap || p.kind == autoKind && strings.EqualFold(word, "auto")
		switch {
		case isMap && p.kind == textMapKind:
			for key, value := range m {
				c.value(written.get(key), value, prop{kind: textKind}, where+"."+key)
			}
		case isMap && p.fields != nil:
			if !written.isMap() {
				return // it came out of an expression, and has no places of its own
			}
			c.fields(written, m, p.fields, where+".")
		}
	}
	if !ok {
		c.loader.fail(at, where+" is "+kindNames[p.kind], "")
		return
	}
	if word, isText := v.(string); isText && p.enum != nil && !slices.Contains(p.enum, word) {
		hint := ""
		if near := suggest.Nearest(word, slices.Values(p.enum)); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.loader.fail(at, where+" is one of "+strings.Join(p.enum, ", "), hint)
	}
}

func (c checker) number(at place, n float64, p prop, where string) {
	if (p.min != 0 || p.max != 0) && (n < p.min || n > p.max) {
		c.loader.fail(at, fmt.Sprintf("%s is from %s to %s", where, text(p.min), text(p.max)), "")
		return
	}
	if steps := n / p.step; p.step != 0 && math.Abs(steps-math.Round(steps)) > 1e-6 {
		c.loader.fail(at, fmt.Sprintf("%s is a multiple of %s", where, text(p.step)), fmt.Sprintf("%s is the next above", text(math.Ceil(steps)*p.step)))
	}
}

// number reads a number, or a text that is one: that is what expressions give.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case string:
		var n float64
		err := json.Unmarshal([]byte(v), &n)
		return n, err == nil
	default:
		return 0, false
	}
}
