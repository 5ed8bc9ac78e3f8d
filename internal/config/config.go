// Package config reads what a user settles once for all commands: which registries speak plain HTTP, which mirrors
// stand in for others, where the registries and file shares that a pipeline names are to be found here, and how much
// is kept on the disk.
//
// The same settings come from three places. A flag beats the environment, the environment beats the file:
//
//	file, err := config.Load(path)         // $SLIPWAY_CONFIG or config.yaml in the home folder
//	fromEnv, err := config.FromEnv(getenv) // SLIPWAY_INSECURE_REGISTRIES, …
//	settings := flags.Over(fromEnv).Over(file)
//
// Package config opens one file and nothing else; it decides nothing about builds or pipelines.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"slipway/internal/errs"
)

// Config is the settings that outlive a command. The zero value is a valid one: nothing insecure, nothing mapped.
type Config struct {
	// InsecureRegistries are hosts, as host or host:port, that may be spoken to over plain HTTP or with a
	// certificate nobody signed. Loopback needs no entry.
	InsecureRegistries []string
	// RegistryMirrors gives, for a registry host, the hosts to ask first when pulling, in order.
	RegistryMirrors map[string][]string
	// MapRegistry replaces a registry host that a pipeline names by HOST or HOST/PREFIX.
	MapRegistry map[string]string
	// MapNAS replaces a file share that a pipeline mounts, SERVER:/PATH, by a folder of this machine.
	MapNAS map[string]string
	// MapNetwork says what a network or region that a pipeline names is here, by vpcId or regionId: "host" or "none".
	MapNetwork map[string]string
	// MapLogs says where a log store that a pipeline names is here, by PROJECT/LOGSTORE or PROJECT: a folder, or an http
	// address.
	MapLogs map[string]string
	// ACREndpoint is the address of the API of Alibaba Cloud's registries, scheme://host[:port]; "" for the region's own.
	ACREndpoint string
	// ACRInstances gives the ids of ACR Enterprise instances by registry host.
	ACRInstances map[string]string
	// AcceleratedSuffixes are what tags end with that ask for an accelerated image, longer ones first. None: the worker's.
	AcceleratedSuffixes []string
	// GC bounds what is kept.
	GC GC
	// RunnerImage is the image that steps of pipelines run in. Default: a root file system made of this machine's packages.
	RunnerImage string
}

// DockerHub is the registry that a mirror without a source stands in for.
const DockerHub = "docker.io"

// Over returns the settings of c laid over those of below. Insecure hosts add up, for a host is insecure whoever says
// so; in the maps an entry of c replaces the entry of below with the same key.
func (c Config) Over(below Config) Config {
	insecure := slices.Concat(c.InsecureRegistries, below.InsecureRegistries)
	slices.Sort(insecure)
	return Config{
		InsecureRegistries: slices.Compact(insecure),
		RegistryMirrors:    over(c.RegistryMirrors, below.RegistryMirrors),
		MapRegistry:        over(c.MapRegistry, below.MapRegistry),
		MapNAS:             over(c.MapNAS, below.MapNAS),
		MapNetwork:         over(c.MapNetwork, below.MapNetwork),
		MapLogs:            over(c.MapLogs, below.MapLogs),
		ACREndpoint:        cmp.Or(c.ACREndpoint, below.ACREndpoint),
		ACRInstances:       over(c.ACRInstances, below.ACRInstances),
		GC:                 c.GC.over(below.GC),

		AcceleratedSuffixes: first(c.AcceleratedSuffixes, below.AcceleratedSuffixes),
		RunnerImage:         cmp.Or(c.RunnerImage, below.RunnerImage),
	}
}

// first returns the first list that has something in it.
func first(top, below []string) []string {
	if len(top) > 0 {
		return top
	}
	return below
}

func over[V any](top, below map[string]V) map[string]V {
	if len(top)+len(below) == 0 {
		return nil
	}
	merged := make(map[string]V, len(top)+len(below))
	maps.Copy(merged, below)
	maps.Copy(merged, top)
	return merged
}

// Words is settings as a user spells them in flags and in the environment: one string for each entry.
type Words struct {
	InsecureRegistries []string // HOST[:PORT]
	RegistryMirrors    []string // [SOURCE=]HOST, without SOURCE a mirror of docker.io
	MapRegistry        []string // HOST=HOST[/PREFIX]
	MapNAS             []string // SERVER:/PATH=DIR
	MapNetwork         []string // VPC=host|none
	MapLogs            []string // PROJECT[/LOGSTORE]=DIR|URL
	ACREndpoint        string   // scheme://host[:port]
	ACRInstances       []string // HOST=ID
	GC                 []string // KEY=AMOUNT, or off

	AcceleratedSuffixes []string // what tags may have at their ends
	RunnerImage         string   // REF
}

// Parse turns words into settings. A word that means nothing is an errs.Invalid that repeats it.
func Parse(w Words) (Config, error) {
	c := Config{RunnerImage: w.RunnerImage}
	for _, host := range w.InsecureRegistries {
		if err := checkHost(host); err != nil {
			return Config{}, fmt.Errorf("insecure registry %q: %w", host, err)
		}
		c.InsecureRegistries = append(c.InsecureRegistries, host)
	}
	for _, word := range w.RegistryMirrors {
		if err := c.addMirror(word); err != nil {
			return Config{}, fmt.Errorf("registry mirror %q: %w", word, err)
		}
	}
	for _, word := range w.MapRegistry {
		if err := c.addRegistry(word); err != nil {
			return Config{}, fmt.Errorf("registry map %q: %w", word, err)
		}
	}
	for _, word := range w.MapNAS {
		if err := c.addNAS(word); err != nil {
			return Config{}, fmt.Errorf("NAS map %q: %w", word, err)
		}
	}
	for _, word := range w.MapNetwork {
		if err := c.addNetwork(word); err != nil {
			return Config{}, fmt.Errorf("network map %q: %w", word, err)
		}
	}
	for _, word := range w.MapLogs {
		if err := c.addLogs(word); err != nil {
			return Config{}, fmt.Errorf("log map %q: %w", word, err)
		}
	}
	if w.ACREndpoint != "" {
		if err := c.setACREndpoint(w.ACREndpoint); err != nil {
			return Config{}, fmt.Errorf("ACR endpoint %q: %w", w.ACREndpoint, err)
		}
	}
	for _, word := range w.ACRInstances {
		if err := c.addACRInstance(word); err != nil {
			return Config{}, fmt.Errorf("ACR instance %q: %w", word, err)
		}
	}
	for _, word := range w.AcceleratedSuffixes {
		if err := c.addSuffix(word); err != nil {
			return Config{}, fmt.Errorf("accelerated suffix %q: %w", word, err)
		}
	}
	for _, word := range w.GC {
		if err := c.addGC(word); err != nil {
			return Config{}, fmt.Errorf("garbage collection %q: %w", word, err)
		}
	}
	return c, nil
}

// FromEnv reads settings from the environment. Each variable is a list separated by commas:
// SLIPWAY_INSECURE_REGISTRIES, SLIPWAY_REGISTRY_MIRRORS, SLIPWAY_MAP_REGISTRY, SLIPWAY_MAP_NAS, SLIPWAY_GC,
// SLIPWAY_MAP_NETWORK, SLIPWAY_MAP_LOGS, SLIPWAY_ACCELERATED_SUFFIXES and SLIPWAY_ACR_INSTANCES. SLIPWAY_ACR_ENDPOINT is
// one address, SLIPWAY_RUNNER_IMAGE one reference.
func FromEnv(getenv func(string) string) (Config, error) {
	list := func(name string) []string {
		return strings.FieldsFunc(getenv(name), func(r rune) bool { return r == ',' })
	}
	c, err := Parse(Words{
		InsecureRegistries: list("SLIPWAY_INSECURE_REGISTRIES"),
		RegistryMirrors:    list("SLIPWAY_REGISTRY_MIRRORS"),
		MapRegistry:        list("SLIPWAY_MAP_REGISTRY"),
		MapNAS:             list("SLIPWAY_MAP_NAS"),
		MapNetwork:         list("SLIPWAY_MAP_NETWORK"),
		MapLogs:            list("SLIPWAY_MAP_LOGS"),
		ACREndpoint:        getenv("SLIPWAY_ACR_ENDPOINT"),
		ACRInstances:       list("SLIPWAY_ACR_INSTANCES"),
		GC:                 list("SLIPWAY_GC"),

		AcceleratedSuffixes: list("SLIPWAY_ACCELERATED_SUFFIXES"),
		RunnerImage:         getenv("SLIPWAY_RUNNER_IMAGE"),
	})
	if err != nil {
		return Config{}, fmt.Errorf("read the environment: %w", err)
	}
	return c, nil
}

// addSuffix keeps the suffixes in order, so that one that ends with another is recognized first.
func (c *Config) addSuffix(word string) error {
	for _, r := range word {
		if r != '_' && r != '.' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return invalid("a tag has only letters, digits and _.-")
		}
	}
	if word == "" || len(word) > maxSuffix {
		return invalid("want 1 to 64 characters")
	}
	if !slices.Contains(c.AcceleratedSuffixes, word) {
		c.AcceleratedSuffixes = append(c.AcceleratedSuffixes, word)
	}
	slices.SortStableFunc(c.AcceleratedSuffixes, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return nil
}

// maxSuffix leaves half of a tag for what it is a suffix of.
const maxSuffix = 64

func (c *Config) addMirror(word string) error {
	source, host, ok := strings.Cut(word, "=")
	if !ok {
		source, host = DockerHub, word
	}
	if err := checkHost(source); err != nil {
		return err
	}
	if err := checkHost(host); err != nil {
		return err
	}
	if c.RegistryMirrors == nil {
		c.RegistryMirrors = map[string][]string{}
	}
	c.RegistryMirrors[source] = append(c.RegistryMirrors[source], host)
	return nil
}

func (c *Config) addRegistry(word string) error {
	from, to, ok := strings.Cut(word, "=")
	if !ok {
		return invalid("want HOST=HOST[/PREFIX]")
	}
	host, _, _ := strings.Cut(to, "/")
	if err := checkHost(from); err != nil {
		return err
	}
	if err := checkHost(host); err != nil {
		return err
	}
	if c.MapRegistry == nil {
		c.MapRegistry = map[string]string{}
	}
	c.MapRegistry[from] = strings.TrimSuffix(to, "/")
	return nil
}

func (c *Config) addNAS(word string) error {
	share, dir, ok := strings.Cut(word, "=")
	if !ok || dir == "" {
		return invalid("want SERVER:/PATH=DIR")
	}
	server, path, ok := strings.Cut(share, ":")
	if !ok || server == "" || !strings.HasPrefix(path, "/") {
		return invalid("the share is not SERVER:/PATH")
	}
	if c.MapNAS == nil {
		c.MapNAS = map[string]string{}
	}
	c.MapNAS[share] = dir
	return nil
}

func (c *Config) addNetwork(word string) error {
	name, here, ok := strings.Cut(word, "=")
	if !ok || name == "" || here != "host" && here != "none" {
		return invalid("want VPC=host, for this machine's network, or VPC=none")
	}
	if c.MapNetwork == nil {
		c.MapNetwork = map[string]string{}
	}
	c.MapNetwork[name] = here
	return nil
}

func (c *Config) addLogs(word string) error {
	store, target, ok := strings.Cut(word, "=")
	if !ok || store == "" || target == "" || strings.HasPrefix(store, "/") {
		return invalid("want PROJECT/LOGSTORE=DIR, or an http address in place of DIR")
	}
	if scheme, _, isURL := strings.Cut(target, "://"); isURL && scheme != "http" && scheme != "https" {
		return invalid("want a folder, or an address that begins with http:// or https://")
	}
	if c.MapLogs == nil {
		c.MapLogs = map[string]string{}
	}
	c.MapLogs[store] = target
	return nil
}

func (c *Config) setACREndpoint(word string) error {
	u, err := url.Parse(word)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" && u.Path != "/" {
		return invalid("want an address, as https://cr.example.com")
	}
	c.ACREndpoint = strings.TrimSuffix(word, "/")
	return nil
}

// setRunnerImage takes any text: whoever pulls the image knows what a reference is.
func (c *Config) setRunnerImage(word string) error {
	c.RunnerImage = word
	return nil
}

func (c *Config) addACRInstance(word string) error {
	host, id, ok := strings.Cut(word, "=")
	if !ok || id == "" {
		return invalid("want HOST=ID")
	}
	if err := checkHost(host); err != nil {
		return err
	}
	if c.ACRInstances == nil {
		c.ACRInstances = map[string]string{}
	}
	c.ACRInstances[host] = id
	return nil
}

// checkHost accepts host and host:port. The registry client looks closer; this catches the URL somebody pasted.
func checkHost(host string) error {
	switch {
	case host == "":
		return invalid("a host is missing")
	case strings.Contains(host, "://"):
		return invalid("want a host, not a URL: leave the scheme out")
	case strings.ContainsAny(host, "/=@, \t"):
		return invalid("want a host, as example.com or example.com:5000")
	}
	return nil
}

func invalid(text string) error { return errs.Mark(errors.New(text), errs.Invalid) }
