package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletion(e env) *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes slipway's commands and flags",
		Long:  "Print a script that completes slipway's commands and flags in bash, fish or zsh.",
		Example: `  source <(slipway completion bash)
  slipway completion fish > ~/.config/fish/completions/slipway.fish`,
		GroupID:   groupMachine,
		Args:      arguments("SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(e.stdout, true)
			case "fish":
				return cmd.Root().GenFishCompletion(e.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(e.stdout)
			}
			err := fmt.Errorf("shell %q: want bash, fish or zsh", args[0])
			return usageError(cmd, err)
		},
	}
}
