package output

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"slipway/internal/errs"
)

// Parse reads the value of --output: type=TYPE,dest=PATH, in CSV. As in buildx, a value without "=" is a folder for the
// image's files, "-" their tar on standard output, and type=oci,tar=false is a layout. What the fields of buildx's
// exporters say besides, flags of the build say here; such a field is refused with the flag's name.
func Parse(s string) (Output, error) {
	o, err := parse(s)
	if err != nil {
		return Output{}, fmt.Errorf("output %q: %w", s, err)
	}
	return o, nil
}

func parse(s string) (Output, error) {
	fields, err := csvvalue.Fields(s, nil)
	if err != nil {
		return Output{}, fmt.Errorf("%w: %w", err, errs.Invalid)
	}
	if len(fields) == 1 && fields[0] != "" && !strings.Contains(fields[0], "=") {
		if fields[0] == "-" {
			return Output{Type: Tar, Dest: "-"}, nil
		}
		return Output{Type: Local, Dest: fields[0]}, nil
	}
	var o Output
	asTar := true
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return o, fmt.Errorf("%q is not key=value: %w", field, errs.Invalid)
		}
		switch k = strings.ToLower(strings.TrimSpace(k)); k {
		case "type":
			o.Type = v
		case "dest":
			o.Dest = v
		case "tar":
			if asTar, err = strconv.ParseBool(v); err != nil {
				return o, fmt.Errorf("tar=%s is neither true nor false: %w", v, errs.Invalid)
			}
		default:
			return o, errs.Hint(fmt.Errorf("field %q is not known: %w", k, errs.Invalid), fieldHint(k))
		}
	}
	if !asTar {
		if o.Type != OCI && o.Type != Layout {
			return o, fmt.Errorf("tar=false goes with type=oci alone: %w", errs.Invalid)
		}
		o.Type = Layout
	}
	return o, o.check()
}

// fieldHint names the flag that says what a field of a buildx exporter says.
func fieldHint(field string) string {
	switch field {
	case "compression", "compression-level":
		return "give it to the build: --compression gzip|zstd|none|estargz|zstdchunked[:LEVEL]"
	case "force-compression":
		return "layers of base images keep their compression"
	case "oci-mediatypes":
		return "give it to the build: --media-types oci|docker"
	case "name":
		return "name the image with --tag"
	case "push", "push-by-digest", "registry.insecure":
		return "push with --push, and --tag says where to"
	case "rewrite-timestamp":
		return "give it to the build: --source-date-epoch"
	}
	if strings.HasPrefix(field, "annotation") {
		return "give it to the build: --annotation KEY=VALUE"
	}
	return "the fields are type and dest"
}

func (o Output) check() error {
	if !slices.Contains(Types(), o.Type) {
		return errs.Hint(fmt.Errorf("type %q is not supported: %w", o.Type, errs.Invalid), typeHint(o.Type))
	}
	if o.Dest == "" {
		hint := "add dest=PATH"
		if o.Type == Docker {
			hint = "there is no daemon to load into: add dest=FILE, then docker load -i FILE"
		}
		return errs.Hint(fmt.Errorf("dest is missing: %w", errs.Invalid), hint)
	}
	if o.Dest == "-" && (o.Type == Layout || o.Type == Local) {
		stream := OCI
		if o.Type == Local {
			stream = Tar
		}
		return errs.Hint(fmt.Errorf("a folder cannot go to standard output: %w", errs.Invalid), "use type="+stream)
	}
	return nil
}

func typeHint(kind string) string {
	switch kind {
	case "image", "registry":
		return "push with --push, and --tag says where to"
	case "cacheonly":
		return "leave --output out: a build without one keeps its results in the cache"
	}
	return "the types are " + strings.Join(Types(), ", ")
}
