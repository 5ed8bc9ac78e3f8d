package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
)

// Groups of commands in the help.
const (
	groupBuild     = "build"
	groupFunctions = "functions"
	groupMachine   = "machine"
)

// newRoot returns slipway's command with all commands below it.
func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "Turn a repository and a pipeline file into a pushed container image",
		Long: `slipway turns a repository and a pipeline file into a pushed container image: one
program that builds Dockerfiles without a daemon, pushes the layers while later
steps still run, and runs pipelines of kind: Pipeline.`,
		Example: `  slipway build -t 127.0.0.1:5000/app:v1 --push .
  slipway run pipeline.yaml
  slipway doctor`,
		Args:              cobra.ArbitraryArgs, // checkCommand has a better word for them
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	showVersion := root.Flags().Bool("version", false, "print the version and the commit it was built from")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		if *showVersion {
			return printVersion(e.stdout, asText)
		}
		return cmd.Help()
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(func(cmd *cobra.Command) error { return usage(cmd.OutOrStdout(), cmd) })
	root.AddGroup(
		&cobra.Group{ID: groupBuild, Title: "Images and pipelines"},
		&cobra.Group{ID: groupFunctions, Title: "Functions"},
		&cobra.Group{ID: groupMachine, Title: "This machine and this program"},
	)
	help := newHelp(root)
	root.SetHelpCommand(help)
	root.AddCommand(
		help,
		newAccelerate(e),
		newBuild(e),
		newCache(e),
		newCompletion(e),
		newDeploy(e),
		newDoctor(e),
		newFunctions(e),
		newImage(e),
		newInfo(e),
		newInvoke(e),
		newLogs(e),
		newPlan(e),
		newRegistry(e),
		newRemove(e),
		newRun(e),
		newSchema(e),
		newSign(e),
		newValidate(e),
		newVerify(e),
		newVersion(e),
		newWarm(e),
	)
	return root
}

// newHelp returns "slipway help COMMAND", the same as "slipway COMMAND --help".
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Example: "  slipway help registry serve",
		GroupID: groupMachine,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkCommand(root, args); err != nil {
				return err
			}
			cmd, _, err := root.Find(args)
			if err != nil {
				return usageError(root, err)
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// group returns a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := make([]string, 0, len(commands))
			for _, c := range commands {
				names = append(names, c.Name())
			}
			return usageError(cmd, errors.New("say which: "+strings.Join(names, ", ")))
		},
	}
	cmd.AddCommand(commands...)
	return cmd
}
