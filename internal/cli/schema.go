package cli

import (
	"fmt"

	"github.com/spf13/cobra"

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
		RunE: func(*cobra.Command, []string) error {
			schema, err := spec.Schema()
			if err != nil {
				return err
			}
			if _, err := e.stdout.Write(schema); err != nil {
				return fmt.Errorf("print the schema: %w", err)
			}
			return nil
		},
	}
	cmd := group("schema", "Print JSON schemas for editors", pipelines)
	cmd.GroupID = groupBuild
	return cmd
}
