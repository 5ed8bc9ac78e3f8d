package function_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/deploy/function"
	"slipway/internal/errs"
)

func props(more map[string]any) map[string]any {
	out := map[string]any{
		"functionName": "demo", "region": "cn-hangzhou", "runtime": "custom-container",
		"customContainerConfig": map[string]any{"image": " registry.example.com/a:1 "},
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func TestFromProps(t *testing.T) {
	t.Parallel()
	got, notices, err := function.FromProps(props(nil))
	want := function.Function{
		Name: "demo", Region: "cn-hangzhou", Image: "registry.example.com/a:1", Port: 9000, CPUs: 0.35, Memory: 512, Disk: 512, Timeout: 3,
		Concurrency: 1, Internet: true,
	}
	if diff := cmp.Diff(want, got); err != nil || len(notices) > 0 || diff != "" {
		t.Errorf("defaults: %v %q (-want +got):\n%s", err, notices, diff)
	}
	got, notices, err = function.FromProps(props(map[string]any{
		"customContainerConfig": map[string]any{
			"image": "a", "port": "8080", "entrypoint": []any{"/app"}, "command": []any{"-n", int64(5)},
			"healthCheckConfig": map[string]any{"httpGetUrl": "/h", "failureThreshold": int64(1)},
		},
		"cpu": 1.5, "memorySize": "1024", "timeout": int64(60), "instanceConcurrency": int64(10), "internetAccess": "false",
		"environmentVariables":    map[string]any{"A": "x", "N": int64(5), "B": true},
		"instanceLifecycleConfig": map[string]any{"initializer": map[string]any{"timeout": int64(9)}, "preStop": map[string]any{}},
		"triggers": []any{
			map[string]any{"triggerName": "h", "triggerType": "http", "triggerConfig": map[string]any{"methods": []any{"GET"}}},
			map[string]any{"triggerName": "o", "triggerType": "oss"},
		},
		"vpcConfig": map[string]any{}, "role": "r", "nasConfig": "auto",
	}))
	want = function.Function{
		Name: "demo", Region: "cn-hangzhou", Image: "a", Port: 8080, Entrypoint: []string{"/app"}, Command: []string{"-n", "5"},
		Env: map[string]string{"A": "x", "N": "5", "B": "true"}, CPUs: 1.5, Memory: 1024, Disk: 512, Timeout: 60, Concurrency: 10,
		Health:      function.Health{URL: "/h", Period: 3, Timeout: 1, FailureThreshold: 1, SuccessThreshold: 1},
		Initializer: &function.Hook{Timeout: 9}, PreStop: &function.Hook{Timeout: 3},
		Triggers: []function.Trigger{{Name: "h", Type: "http", AuthType: "anonymous", Methods: []string{"GET"}}, {Name: "o", Type: "oss"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("everything: %v (-want +got):\n%s", err, diff)
	}
	wantNotices := []string{
		"of no use on this machine, and ignored: role, vpcConfig, nasConfig",
		"trigger o: nothing on this machine sends events of type oss; the function can be invoked",
	}
	if diff := cmp.Diff(wantNotices, notices); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

// What would quietly do less than it says, or let in more people, is refused.
func TestFromPropsRefuses(t *testing.T) {
	t.Parallel()
	for want, more := range map[string]map[string]any{
		"nasConfig: this machine has none": {"nasConfig": map[string]any{"userId": int64(0)}},
		"authType function is not checked": {"triggers": []any{map[string]any{"triggerName": "h", "triggerType": "http", "triggerConfig": map[string]any{"authType": "function"}}}},
		`function name "../x"`:             {"functionName": "../x"},
		"is no number":                     {"timeout": "soon"},
	} {
		_, _, err := function.FromProps(props(more))
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errs.Invalid) {
			t.Errorf("%v: %v, want %q of kind errs.Invalid", more, err, want)
		}
	}
}
