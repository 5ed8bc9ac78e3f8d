package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"slipway/internal/deploy/sfile"
	"slipway/internal/pipeline/spec"
)

func newSchema(e env) *cobra.Command {
	pipelines := &cobra.Command{
		Use:   "pipeline",
		Short: "Print the JSON schema of pipeline files",
		Long: `Print the JSON schema of pipeline files, with descriptions, so that an editor completes
and checks them.`,
		Example: "  slipway schema pipeline > pipeline.schema.json\n  # yaml-language-server: $schema=pipeline.schema.json",
		Args:    arguments(),
		RunE:    func(*cobra.Command, []string) error { return printSchema(e, spec.Schema) },
	}
	functions := &cobra.Command{
		Use:     "s",
		Short:   "Print the JSON schema of s.yaml files",
		Long:    `Print the JSON schema of s.yaml files of edition 3.0.0 with the component fc3.`,
		Example: "  slipway schema s > s.schema.json",
		Args:    arguments(),
		RunE:    func(*cobra.Command, []string) error { return printSchema(e, sfile.Schema) },
	}
	cmd := group("schema", "Print JSON schemas for editors", pipelines, functions)
	cmd.GroupID = groupBuild
	return cmd
}

func printSchema(e env, schema func() ([]byte, error)) error {
	text, err := schema()
	if err != nil {
		return err
	}
	if _, err := e.stdout.Write(text); err != nil {
		return fmt.Errorf("print the schema: %w", err)
	}
	return nil
}
