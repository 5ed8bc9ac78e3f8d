package tree

import (
	"fmt"
	"io/fs"
	"strconv"

	mode "github.com/tonistiigi/dchapes-mode"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Chmod is the --chmod of a COPY or ADD.
type Chmod struct {
	octal bool
	mode  fs.FileMode // when octal
	set   mode.Set    // when symbolic
}

// ParseChmod reads an octal mode up to 7777, or a symbolic one as chmod(1) takes: "u=rwX,go=rX".
func ParseChmod(s string) (*Chmod, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil {
		if n > 0o7777 {
			return nil, fmt.Errorf("--chmod=%s: an octal mode goes from 0 to 7777: %w", s, errs.Invalid)
		}
		return &Chmod{octal: true, mode: layer.FileMode(uint32(n))}, nil
	}
	set, err := mode.ParseWithUmask(s, 0)
	if err != nil {
		return nil, fmt.Errorf("--chmod=%s: %w", s, errs.Mark(err, errs.Invalid))
	}
	return &Chmod{set: set}, nil
}

// Apply gives the mode of a file that had mode m. A nil Chmod changes nothing.
func (c *Chmod) Apply(m fs.FileMode) fs.FileMode {
	switch {
	case c == nil:
		return m
	case c.octal:
		return m.Type() | c.mode
	default:
		return c.set.Apply(m)
	}
}

// Made is the mode of a folder made on the way.
func (c *Chmod) Made() fs.FileMode {
	if c != nil && c.octal {
		return c.mode.Perm() | fs.ModeDir
	}
	return 0o755 | fs.ModeDir
}
