package app

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"slipway/internal/config"
	"slipway/internal/oci/ref"
)

func parse(t *testing.T, name string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPublicAddress(t *testing.T) {
	t.Parallel()
	var tried []string
	n := &network{known: map[string]bool{}, dial: func(_ context.Context, _, address string) (net.Conn, error) {
		tried = append(tried, address)
		if strings.Contains(address, "beijing") {
			here, _ := net.Pipe()
			return here, nil
		}
		return nil, errors.New("no route")
	}}
	for from, to := range map[string]string{
		"registry-vpc.cn-hangzhou.aliyuncs.com/a/b:c":             "registry.cn-hangzhou.aliyuncs.com/a/b:c",
		"registry-vpc.cn-hangzhou.aliyuncs.com/d/e:f":             "registry.cn-hangzhou.aliyuncs.com/d/e:f",
		"demo-registry-vpc.cn-shanghai.cr.aliyuncs.com/a/b:debug": "demo-registry.cn-shanghai.cr.aliyuncs.com/a/b:debug",
		"registry-internal.cn-shenzhen.aliyuncs.com/a/b:c":        "registry.cn-shenzhen.aliyuncs.com/a/b:c",
		"registry-vpc.cn-beijing.aliyuncs.com/a/b:c":              "registry-vpc.cn-beijing.aliyuncs.com/a/b:c",
		"registry.cn-chengdu.aliyuncs.com/a/b:c":                  "registry.cn-chengdu.aliyuncs.com/a/b:c",
		"registry-vpc.example.com/a/b:c":                          "registry-vpc.example.com/a/b:c",
	} {
		if got := n.public(t.Context())(parse(t, from)); got != parse(t, to) {
			t.Errorf("%s becomes %s, want %s", from, got, to)
		}
	}
	if len(tried) != 4 {
		t.Errorf("tried %q, want each address inside a network once", tried)
	}
}

func TestUseInstance(t *testing.T) {
	t.Parallel()
	const host = "demo-registry.cn-hangzhou.cr.aliyuncs.com"
	written, mapped := parse(t, host+"/a/b"), parse(t, "127.0.0.1:5000/a/b")
	for _, tt := range []struct {
		name          string
		key           bool
		written, here ref.Ref
		want          string
		known         bool
	}{
		{"with a key", true, written, written, "instanceID cri-1: the registry's credentials are asked for with the access key", true},
		{"a domain of one's own", true, parse(t, "images.example.com/a"), parse(t, "images.example.com/a"), "asked for with the access key", true},
		{"another registry here", true, written, mapped, "of no use, for the registry is 127.0.0.1:5000 here", false},
		{"without a key", false, written, written, "come from the Docker configuration, for ALIBABA_CLOUD_ACCESS_KEY_ID is not set", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opts := Options{Now: time.Now, Config: config.Config{}, Getenv: func(name string) string {
				if tt.key && strings.HasPrefix(name, "ALIBABA_CLOUD_ACCESS_KEY") {
					return "x"
				}
				return ""
			}}
			a := &App{opts: opts, acr: newACR(opts)}
			if got := a.useInstance(tt.written, tt.here, "cri-1"); !strings.Contains(got, tt.want) {
				t.Errorf("useInstance says %q, want %q", got, tt.want)
			}
			if a.acr != nil && a.acr.Knows(tt.here.Registry()) != tt.known {
				t.Errorf("the instance of %s is known: %v", tt.here.Registry(), !tt.known)
			}
		})
	}
}
