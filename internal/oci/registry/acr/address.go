package acr

import (
	"net"
	"strings"
)

// Address is the host name of a registry of Alibaba Cloud, taken apart.
type Address struct {
	// Name is an Enterprise instance's name; "" for the personal edition.
	Name string
	// Region is as in cn-hangzhou.
	Region string
	// Network is "vpc" or "internal", for addresses inside a network of Alibaba Cloud; "" for the public one.
	Network string

	suffix string // what follows the region
}

// Parse takes a host apart. Forms are registry[-vpc|-internal].REGION.aliyuncs.com for the personal edition and
// NAME-registry[-vpc|-internal].REGION[.cr].aliyuncs.com for Enterprise instances; the documentation has the latter
// with and without .cr.
func Parse(host string) (a Address, ok bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	rest, ok := strings.CutSuffix(strings.ToLower(host), ".aliyuncs.com")
	if !ok {
		return Address{}, false
	}
	a.suffix = ".aliyuncs.com"
	if shorter, ok := strings.CutSuffix(rest, ".cr"); ok {
		rest, a.suffix = shorter, ".cr.aliyuncs.com"
	}
	label, region, ok := strings.Cut(rest, ".")
	if !ok || region == "" || strings.Contains(region, ".") {
		return Address{}, false
	}
	a.Region = region
	for _, network := range []string{"vpc", "internal"} {
		if before, ok := strings.CutSuffix(label, "-"+network); ok {
			label, a.Network = before, network
		}
	}
	switch name, ok := strings.CutSuffix(label, "-registry"); {
	case ok && name != "":
		a.Name = name
	case label != "registry" || a.suffix != ".aliyuncs.com":
		return Address{}, false
	}
	return a, true
}

// Enterprise says whether the address is an Enterprise instance's.
func (a Address) Enterprise() bool { return a.Name != "" }

// Host puts the address together again.
func (a Address) Host() string {
	host := "registry"
	if a.Name != "" {
		host = a.Name + "-registry"
	}
	if a.Network != "" {
		host += "-" + a.Network
	}
	return host + "." + a.Region + a.suffix
}

// Public is the same registry's public address.
func (a Address) Public() Address {
	a.Network = ""
	return a
}
