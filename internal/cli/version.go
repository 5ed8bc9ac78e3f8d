package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Set by the linker (see Makefile), commit with "-modified" behind it when the work tree had changes. A plain
// "go build" leaves them, and the toolchain's own stamps are used.
var (
	version = "dev"
	commit  string
)

// versionInfo is what "slipway version --output json" prints.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`   // "" when built outside a repository
	Modified bool   `json:"modified"` // the work tree had changes that the commit does not
	Go       string `json:"go"`       //
	Platform string `json:"platform"` // os/arch
}

func newVersion(e env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version and the commit it was built from",
		Example: "  slipway version\n  slipway version --output json",
		GroupID: groupMachine,
		Args:    arguments(),
		RunE:    func(*cobra.Command, []string) error { return printVersion(e.stdout, output) },
	}
	outputFlag(cmd.Flags(), &output)
	return cmd
}

func printVersion(w io.Writer, f format) error {
	v := readVersion()
	if f == asJSON {
		return printJSON(w, v)
	}
	text := "commit unknown"
	if v.Commit != "" {
		text = "commit " + v.Commit
	}
	if v.Modified {
		text += " with changes"
	}
	_, err := fmt.Fprintf(w, "slipway %s (%s, %s %s)\n", v.Version, text, v.Go, v.Platform)
	return err
}

func readVersion() versionInfo {
	v := versionInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if commit != "" {
		v.Commit, v.Modified = strings.CutSuffix(commit, "-modified")
		return v
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
