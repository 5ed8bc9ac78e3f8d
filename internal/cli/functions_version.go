package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/deploy/function"
	"slipway/internal/errs"
)

func newFunctionsVersion(e env) *cobra.Command {
	var description string
	publish := &cobra.Command{
		Use:     "publish NAME",
		Short:   "Make a numbered version of what is deployed",
		Example: "  slipway functions version publish demo --description 'before the move'",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := e.target()
			if err != nil {
				return err
			}
			v, err := target.Publish(cmd.Context(), args[0], description)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(e.stdout, v.ID); err != nil {
				return fmt.Errorf("print the result: %w", err)
			}
			return nil
		},
	}
	publish.Flags().StringVar(&description, "description", "", "what the version is")
	remove := &cobra.Command{
		Use:     "remove NAME VERSION",
		Short:   "Remove a numbered version that no alias names",
		Example: "  slipway functions version remove demo 3",
		Args:    arguments("NAME", "VERSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := e.target()
			if err != nil {
				return err
			}
			return target.RemoveVersion(cmd.Context(), args[0], args[1])
		},
	}
	return group("version", "Numbered versions of a function, which never change", publish, remove)
}

func newFunctionsAlias(e env) *cobra.Command {
	var weight string
	set := &cobra.Command{
		Use:   "set NAME ALIAS VERSION",
		Short: "Make or change an alias",
		Long: `Make or change an alias, a name for a version. With --weight another version gets a
part of its requests.`,
		Example: "  slipway functions alias set demo prod 3\n  slipway functions alias set demo prod 3 --weight 4=0.1",
		Args:    arguments("NAME", "ALIAS", "VERSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a := function.Alias{Name: args[1], Version: args[2]}
			if weight != "" {
				version, share, ok := strings.Cut(weight, "=")
				n, err := strconv.ParseFloat(share, 64)
				if !ok || err != nil {
					return fmt.Errorf("--weight %q: write VERSION=SHARE, such as 4=0.1: %w", weight, errs.Invalid)
				}
				a.Additional, a.Weight = version, n
			}
			target, err := e.target()
			if err != nil {
				return err
			}
			return target.SetAlias(cmd.Context(), args[0], a)
		},
	}
	set.Flags().StringVar(&weight, "weight", "", "give another version a share of the requests, `VERSION=SHARE`")
	remove := &cobra.Command{
		Use:     "remove NAME ALIAS",
		Short:   "Remove an alias",
		Example: "  slipway functions alias remove demo prod",
		Args:    arguments("NAME", "ALIAS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := e.target()
			if err != nil {
				return err
			}
			return target.RemoveAlias(cmd.Context(), args[0], args[1])
		},
	}
	return group("alias", "Names for versions of a function", set, remove)
}
