package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"

	"go.yaml.in/yaml/v4"

	"slipway/internal/errs"
	"slipway/internal/suggest"
)

// maxFile bounds what is read: settings are a page, not a megabyte.
const maxFile = 1 << 20

// Load reads the settings file at path. A file that is not there gives the zero Config: nobody must write one.
// Mistakes are errs.Invalid and begin file:line:column.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) > maxFile {
		return Config{}, errs.Mark(fmt.Errorf("%s: larger than %d bytes", path, maxFile), errs.Invalid)
	}
	return Decode(path, data)
}

// Decode parses the bytes of a settings file that errors call name.
func Decode(name string, data []byte) (Config, error) {
	var docs []yaml.Node
	if err := yaml.Load(data, &docs, yaml.WithAllDocuments()); err != nil {
		return Config{}, syntaxError(name, err)
	}
	var c Config
	d := decoder{name: name, config: &c}
	switch {
	case len(docs) == 0 || len(docs[0].Content) == 0:
		return Config{}, nil
	case len(docs) > 1:
		d.fail(&docs[1], "a second document; the configuration is one")
	default:
		d.top(docs[0].Content[0])
	}
	return c, errors.Join(d.mistakes...)
}

func syntaxError(name string, err error) error {
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		err = fmt.Errorf("%s:%d:%d: %s", name, e.Mark.Line, e.Mark.Column, e.Message)
		return errs.Mark(err, errs.Invalid)
	}
	return errs.Mark(fmt.Errorf("%s: %w", name, err), errs.Invalid)
}

// decoder walks nodes rather than unmarshalling into a struct, for the sake of positions and of a word about
// misspelt keys. It notes every mistake and goes on.
type decoder struct {
	name     string
	config   *Config
	mistakes []error
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	err := fmt.Errorf("%s:%d:%d: %w", d.name, n.Line, n.Column, fmt.Errorf(format, args...))
	d.mistakes = append(d.mistakes, errs.Mark(err, errs.Invalid))
}

func (d *decoder) top(n *yaml.Node) {
	read := map[string]func(*yaml.Node){
		"gc":                 d.gc,
		"insecureRegistries": d.insecure,
		"registryMirrors":    d.mirrors,
		"mapRegistry":        func(n *yaml.Node) { d.pairs(n, d.config.addRegistry) },
		"mapNas":             func(n *yaml.Node) { d.pairs(n, d.config.addNAS) },
		"mapNetwork":         func(n *yaml.Node) { d.pairs(n, d.config.addNetwork) },
		"mapLogs":            func(n *yaml.Node) { d.pairs(n, d.config.addLogs) },
		"acrEndpoint":        func(n *yaml.Node) { d.text(n, d.config.setACREndpoint) },
		"acceleratedSuffixes": func(n *yaml.Node) {
			for _, s := range d.strings(n) {
				d.note(s, d.config.addSuffix(s.Value))
			}
		},
		"acrInstances": func(n *yaml.Node) { d.pairs(n, d.config.addACRInstance) },
		"runnerImage":  func(n *yaml.Node) { d.text(n, d.config.setRunnerImage) },
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	for key, value := range d.mapping(n) {
		f, ok := read[key.Value]
		if !ok {
			d.unknown(key, names(read))
			continue
		}
		f(value)
	}
}

// note takes down a mistake in a value, if there is one.
func (d *decoder) note(n *yaml.Node, err error) {
	if err != nil {
		d.fail(n, "%w", err)
	}
}

func names[V any](known map[string]V) []string { return slices.Sorted(maps.Keys(known)) }

func (d *decoder) unknown(key *yaml.Node, known []string) {
	if near := suggest.Nearest(key.Value, slices.Values(known)); near != "" {
		d.fail(key, "unknown key %q; did you mean %q?", key.Value, near)
		return
	}
	d.fail(key, "unknown key %q; keys are %q", key.Value, known)
}

func (d *decoder) insecure(n *yaml.Node) {
	for _, host := range d.strings(n) {
		if err := checkHost(host.Value); err != nil {
			d.fail(host, "%q: %w", host.Value, err)
			continue
		}
		d.config.InsecureRegistries = append(d.config.InsecureRegistries, host.Value)
	}
}

func (d *decoder) mirrors(n *yaml.Node) {
	for source, hosts := range d.mapping(n) {
		for _, host := range d.strings(hosts) {
			if err := d.config.addMirror(source.Value + "=" + host.Value); err != nil {
				d.fail(host, "%q: %w", host.Value, err)
			}
		}
	}
}

// text gives a scalar to set.
func (d *decoder) text(n *yaml.Node, set func(string) error) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, "want text")
		return
	}
	if err := set(n.Value); err != nil {
		d.fail(n, "%w", err)
	}
}

// pairs gives every KEY: VALUE of a mapping to add as KEY=VALUE.
func (d *decoder) pairs(n *yaml.Node, add func(string) error) {
	for key, value := range d.mapping(n) {
		if value.Kind != yaml.ScalarNode {
			d.fail(value, "want text")
			continue
		}
		if err := add(key.Value + "=" + value.Value); err != nil {
			d.fail(key, "%w", err)
		}
	}
}

// mapping yields the keys and values of a mapping, each key once.
func (d *decoder) mapping(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			d.fail(n, "want a mapping of KEY: VALUE")
			return
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			switch {
			case key.Kind != yaml.ScalarNode:
				d.fail(key, "want text as a key")
			case seen[key.Value]:
				d.fail(key, "key %q appears twice", key.Value)
			case !yield(key, value):
				return
			}
			seen[key.Value] = true
		}
	}
}

// strings returns the scalars of a list, or of a single scalar.
func (d *decoder) strings(n *yaml.Node) []*yaml.Node {
	switch n.Kind {
	case yaml.ScalarNode:
		return []*yaml.Node{n}
	case yaml.SequenceNode:
	default:
		d.fail(n, "want a list")
		return nil
	}
	var list []*yaml.Node
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			d.fail(item, "want text")
			continue
		}
		list = append(list, item)
	}
	return list
}
