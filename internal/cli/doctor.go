package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"slipway/internal/config"
	"slipway/internal/doctor"
	"slipway/internal/isolation"
)

// doctorResult is what "slipway doctor --output json" prints.
type doctorResult struct {
	CanBuild bool             `json:"canBuild"`
	Findings []doctor.Finding `json:"findings"`
}

func newDoctor(e env) *cobra.Command {
	var (
		words  config.Words
		hosts  []string
		output format
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine can do, and what to do about the rest",
		Long: `Say what this machine can do, and what to do about the rest: isolation, the overlay
file system, cgroups, disk, git, and whether registries answer.

The exit code is 1 when builds cannot run here.`,
		Example: "  slipway doctor\n  slipway doctor --registry registry.example.com --output json",
		GroupID: groupMachine,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return examine(cmd.Context(), e, words, hosts, output)
		},
	}
	cmd.Flags().StringArrayVar(&hosts, "registry", nil, "also see whether `HOST` answers; repeatable")
	registryFlags(cmd.Flags(), &words)
	outputFlag(cmd.Flags(), &output)
	return cmd
}

func examine(ctx context.Context, e env, words config.Words, hosts []string, f format) error {
	settings, err := e.settings(words)
	if err != nil {
		return err
	}
	home, err := e.home()
	if err != nil {
		return err
	}
	place, none := isolation.Enter(ctx, isolation.Options{Home: home, Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr})
	if done, ok := errors.AsType[*isolation.Exited](none); ok {
		return done
	}
	findings := doctor.Examine(ctx, doctor.Options{Home: home, Config: settings, Registries: hosts, Place: place, NoPlace: none})
	var broken []string
	for _, finding := range findings {
		if finding.State == doctor.Broken {
			broken = append(broken, finding.Name)
		}
	}
	if f == asJSON {
		err = printJSON(e.stdout, doctorResult{CanBuild: len(broken) == 0, Findings: findings})
	} else {
		err = printFindings(e.stdout, findings)
	}
	if err == nil && len(broken) > 0 {
		err = errors.New("builds cannot run on this machine: " + strings.Join(broken, ", "))
	}
	return err
}

func printFindings(w io.Writer, findings []doctor.Finding) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", f.State, f.Name, f.Detail)
		if f.Hint != "" {
			_, _ = fmt.Fprintf(table, "\t\t-> %s\n", f.Hint)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the findings: %w", err)
	}
	return nil
}
