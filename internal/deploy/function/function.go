// Package function holds the words of deployments: what a Function is, its versions and aliases, and what a Target that
// runs functions promises. It does no I/O.
package function

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
)

// Function is what is deployed: an image under the custom-container contract of Function Compute 3.0, with its limits.
type Function struct {
	Name        string            `json:"functionName"`
	Region      string            `json:"region,omitempty"`
	Description string            `json:"description,omitempty"`
	Image       string            `json:"image"`
	Entrypoint  []string          `json:"entrypoint,omitempty"`
	Command     []string          `json:"command,omitempty"`
	Env         map[string]string `json:"environmentVariables,omitempty"`
	// Port is where the program listens. Default: 9000.
	Port int `json:"port"`
	// CPUs in vCPU, Memory and Disk in MB, Timeout in seconds.
	CPUs    float64 `json:"cpu"`
	Memory  int64   `json:"memorySize"`
	Disk    int64   `json:"diskSize"`
	Timeout int     `json:"timeout"`
	// Concurrency is how many requests an instance answers at once.
	Concurrency int `json:"instanceConcurrency"`
	// Internet says whether the function reaches other machines.
	Internet bool `json:"internetAccess"`
	// Health is asked of every instance when its URL is set.
	Health Health `json:"healthCheckConfig,omitzero"`
	// Initializer and PreStop are called at the beginning and the end of an instance when they are set.
	Initializer *Hook     `json:"initializer,omitempty"`
	PreStop     *Hook     `json:"preStop,omitempty"`
	Triggers    []Trigger `json:"triggers,omitempty"`
}

// Health says when an instance counts as healthy. Times are seconds.
type Health struct {
	URL              string `json:"httpGetUrl,omitempty"`
	InitialDelay     int    `json:"initialDelaySeconds,omitempty"`
	Period           int    `json:"periodSeconds,omitempty"`
	Timeout          int    `json:"timeoutSeconds,omitempty"`
	FailureThreshold int    `json:"failureThreshold,omitempty"`
	SuccessThreshold int    `json:"successThreshold,omitempty"`
}

// Hook is a call at the beginning or the end of an instance.
type Hook struct {
	// Timeout in seconds. Default: 3.
	Timeout int `json:"timeout"`
}

// Trigger is what calls a function.
type Trigger struct {
	Name      string `json:"triggerName"`
	Type      string `json:"triggerType"` // http
	Qualifier string `json:"qualifier,omitempty"`
	// AuthType is anonymous.
	AuthType string   `json:"authType,omitempty"`
	Methods  []string `json:"methods,omitempty"`
}

// Deadline is Timeout as a duration.
func (f *Function) Deadline() time.Duration { return time.Duration(f.Timeout) * time.Second }

// Latest names the version that deployments change; numbered versions are copies of it that never change.
const Latest = "LATEST"

// Version is a function as it was at a moment.
type Version struct {
	// ID is LATEST, or a number from 1.
	ID          string    `json:"versionId"`
	Description string    `json:"description,omitempty"`
	Deployed    time.Time `json:"lastModifiedTime"`
	Function    Function  `json:"function"`
}

// Alias is a name for a version, of which another may get a part of the requests.
type Alias struct {
	Name    string `json:"aliasName"`
	Version string `json:"versionId"`
	// Weight is the share of requests, from 0 to 1, that Additional gets.
	Additional string  `json:"additionalVersion,omitempty"`
	Weight     float64 `json:"additionalWeight,omitempty"`
}

// Deployed is what is known of a function after its deployment.
type Deployed struct {
	Latest   Version   `json:"latest"`
	Versions []Version `json:"versions,omitempty"`
	Aliases  []Alias   `json:"aliases,omitempty"`
	// URL is where the function answers requests, empty when nothing serves it now.
	URL string `json:"url,omitempty"`
	// Instances run now.
	Instances int `json:"instances"`
}

// CheckName refuses what is no function's name by Function Compute's rule, of kind errs.Invalid.
func CheckName(name string) error {
	other := func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, other) || name[0] == '-' || name[0] >= '0' && name[0] <= '9' {
		return fmt.Errorf("function name %q: letters, digits, _ and -, up to 128, the first no digit: %w", name, errs.Invalid)
	}
	return nil
}

// FromProps makes a function of the properties of an fc3 resource, checked by package sfile, with the defaults of
// Function Compute. What a property asks for that no image on a machine can have is told as a notice; what would change
// what the function does is refused, of kind errs.Invalid.
func FromProps(props map[string]any) (Function, []string, error) {
	data, err := json.Marshal(props)
	if err != nil {
		return Function{}, nil, fmt.Errorf("properties: %w", err)
	}
	var p properties
	if err := json.Unmarshal(data, &p); err != nil {
		return Function{}, nil, fmt.Errorf("properties: %w: %w", err, errs.Invalid)
	}
	c := p.Container
	f := Function{
		Name: string(p.Name), Region: string(p.Region), Description: string(p.Description), Image: strings.TrimSpace(string(c.Image)),
		Entrypoint: strs(c.Entrypoint), Command: strs(c.Command), Port: int(orElse(c.Port, 9000)),
		CPUs: orElse(p.CPU, 0.35), Memory: int64(orElse(p.Memory, 512)), Disk: int64(orElse(p.Disk, 512)),
		Timeout: int(orElse(p.Timeout, 3)), Concurrency: int(orElse(p.Concurrency, 1)), Internet: p.Internet == nil || bool(*p.Internet),
	}
	if len(p.Env) > 0 {
		f.Env = make(map[string]string, len(p.Env))
		for k, v := range p.Env {
			f.Env[k] = string(v)
		}
	}
	if h := c.Health; h.URL != "" {
		f.Health = Health{
			URL: string(h.URL), InitialDelay: int(h.Delay), Period: int(orElse(h.Period, 3)), Timeout: int(orElse(h.Timeout, 1)),
			FailureThreshold: int(orElse(h.Failures, 3)), SuccessThreshold: int(orElse(h.Successes, 1)),
		}
	}
	f.Initializer, f.PreStop = p.Lifecycle.Initializer.hook(), p.Lifecycle.PreStop.hook()
	for _, t := range p.Triggers {
		trigger := Trigger{Name: string(t.Name), Type: string(t.Type), Qualifier: string(t.Qualifier), AuthType: string(t.Config.AuthType), Methods: strs(t.Config.Methods)}
		if trigger.Type == "http" && trigger.AuthType == "" {
			trigger.AuthType = "anonymous"
		}
		f.Triggers = append(f.Triggers, trigger)
	}
	if err := CheckName(f.Name); err != nil {
		return Function{}, nil, err
	}
	notices, err := p.fit(props)
	if err != nil {
		return Function{}, nil, fmt.Errorf("function %s: %w", f.Name, err)
	}
	return f, notices, nil
}

// scalar takes what YAML has for texts: 5 and true count as well.
type scalar string

func (s *scalar) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*s = scalar(text)
		return nil
	}
	*s = scalar(data)
	return nil
}

// num takes numbers, and texts that are some: that is what expressions give.
type num float64

func (n *num) UnmarshalJSON(data []byte) error {
	var f float64
	if err := json.Unmarshal([]byte(strings.Trim(string(data), `"`)), &f); err != nil {
		return fmt.Errorf("%s is no number: %w", data, err)
	}
	if math.IsInf(f, 0) || math.Abs(f) > 1<<53 {
		return fmt.Errorf("%s is out of range", data)
	}
	*n = num(f)
	return nil
}

type flag bool

func (f *flag) UnmarshalJSON(data []byte) error {
	*f = flag(strings.Trim(string(data), `"`) == "true")
	return nil
}

type hookProps struct {
	Handler *scalar  `json:"handler"`
	Command []scalar `json:"command"`
	Timeout num      `json:"timeout"`
}

func (h *hookProps) hook() *Hook {
	if h == nil {
		return nil
	}
	return &Hook{Timeout: int(orElse(h.Timeout, 3))}
}

type properties struct {
	Name        scalar            `json:"functionName"`
	Region      scalar            `json:"region"`
	Description scalar            `json:"description"`
	CPU         num               `json:"cpu"`
	Memory      num               `json:"memorySize"`
	Disk        num               `json:"diskSize"`
	Timeout     num               `json:"timeout"`
	Concurrency num               `json:"instanceConcurrency"`
	Internet    *flag             `json:"internetAccess"`
	Env         map[string]scalar `json:"environmentVariables"`
	Container   struct {
		Image      scalar   `json:"image"`
		Port       num      `json:"port"`
		Entrypoint []scalar `json:"entrypoint"`
		Command    []scalar `json:"command"`
		Health     struct {
			URL       scalar `json:"httpGetUrl"`
			Delay     num    `json:"initialDelaySeconds"`
			Period    num    `json:"periodSeconds"`
			Timeout   num    `json:"timeoutSeconds"`
			Failures  num    `json:"failureThreshold"`
			Successes num    `json:"successThreshold"`
		} `json:"healthCheckConfig"`
	} `json:"customContainerConfig"`
	Lifecycle struct {
		Initializer *hookProps `json:"initializer"`
		PreStop     *hookProps `json:"preStop"`
	} `json:"instanceLifecycleConfig"`
	Triggers []struct {
		Name      scalar `json:"triggerName"`
		Type      scalar `json:"triggerType"`
		Qualifier scalar `json:"qualifier"`
		Config    struct {
			AuthType scalar   `json:"authType"`
			Methods  []scalar `json:"methods"`
		} `json:"triggerConfig"`
	} `json:"triggers"`
}

// Properties that a machine of one's own has no use for, and those without which a function would not do what it does.
var (
	hosted = []string{
		"annotations", "asyncInvokeConfig", "concurrencyConfig", "customDNS", "customDomain", "layers", "logConfig", "provisionConfig",
		"role", "scalingConfig", "sessionAffinity", "sessionAffinityConfig", "tags", "tracingConfig", "vpcBinding", "vpcConfig",
	}
	needed = []string{"gpuConfig", "nasConfig", "ossMountConfig", "polarFsConfig"}
)

// fit says which properties have no effect on a machine of one's own, and refuses those that must have one.
func (p *properties) fit(props map[string]any) (notices []string, err error) {
	for _, name := range needed {
		if v := props[name]; v != nil && v != "auto" && v != "Auto" {
			err := fmt.Errorf("%s: this machine has none to give to a function: %w", name, errs.Invalid)
			return nil, errs.Hint(err, "leave it out, or deploy with an access alias of Function Compute")
		}
	}
	var unused []string
	for _, name := range append(slices.Clone(hosted), needed...) {
		if props[name] != nil {
			unused = append(unused, name)
		}
	}
	if len(unused) > 0 {
		notices = append(notices, "of no use on this machine, and ignored: "+strings.Join(unused, ", "))
	}
	for _, t := range p.Triggers {
		switch {
		case t.Type != "http":
			notices = append(notices, fmt.Sprintf("trigger %s: nothing on this machine sends events of type %s; the function can be invoked", t.Name, t.Type))
		case t.Config.AuthType != "" && t.Config.AuthType != "anonymous":
			err := fmt.Errorf("trigger %s: authType %s is not checked on this machine, and without a check anybody could call the function: %w", t.Name, t.Config.AuthType, errs.Invalid)
			return nil, errs.Hint(err, "authType: anonymous, or leave the trigger out and use slipway invoke")
		}
	}
	return notices, nil
}

func orElse(n num, otherwise float64) float64 {
	if n == 0 {
		return otherwise
	}
	return float64(n)
}

func strs(list []scalar) []string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}
