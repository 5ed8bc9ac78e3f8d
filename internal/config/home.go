package config

import (
	"errors"
	"path/filepath"

	"slipway/internal/errs"
)

// Home returns the folder that holds slipway's state: $SLIPWAY_HOME, else /var/lib/slipway for root, else slipway in
// the user's data folder ($XDG_DATA_HOME, by default ~/.local/share). It makes no folder.
func Home(getenv func(string) string, uid int) (string, error) {
	switch {
	case getenv("SLIPWAY_HOME") != "":
		return filepath.Abs(getenv("SLIPWAY_HOME"))
	case uid == 0:
		return "/var/lib/slipway", nil
	case getenv("XDG_DATA_HOME") != "":
		return filepath.Join(getenv("XDG_DATA_HOME"), "slipway"), nil
	case getenv("HOME") != "":
		return filepath.Join(getenv("HOME"), ".local", "share", "slipway"), nil
	}
	err := errors.New("find slipway's folder: none of SLIPWAY_HOME, XDG_DATA_HOME and HOME is set")
	return "", errs.Hint(errs.Mark(err, errs.Invalid), "set SLIPWAY_HOME to a folder you may write to")
}

// Path returns where the settings file lies: $SLIPWAY_CONFIG, else config.yaml in the home folder.
func Path(getenv func(string) string, home string) string {
	if path := getenv("SLIPWAY_CONFIG"); path != "" {
		return path
	}
	return filepath.Join(home, "config.yaml")
}
