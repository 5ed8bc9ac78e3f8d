package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/errs"
	"slipway/internal/suggest"
)

// choice is a flag that takes one of a few words.
type choice[T ~string] struct {
	value *T
	words []string
}

var _ pflag.Value = choice[string]{}

func (c choice[T]) String() string {
	if c.value == nil { // pflag asks a zero value for its default
		return ""
	}
	return string(*c.value)
}

func (c choice[T]) Type() string { return "string" }

func (c choice[T]) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("want one of %s", strings.Join(c.words, ", "))
	}
	*c.value = T(word)
	return nil
}

// usageError is a mistake on the command line, with the way to its help.
func usageError(cmd *cobra.Command, err error) error {
	return errs.Hint(errs.Mark(err, errs.Invalid), "run '"+cmd.CommandPath()+" --help' for its flags and an example")
}

// flagError words what pflag found wrong, and names the flag that was meant.
func flagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || unknown.GetSpecifiedShortnames() != "" {
		return usageError(cmd, err)
	}
	meant := suggest.Nearest(unknown.GetSpecifiedName(), func(yield func(string) bool) {
		more := true
		cmd.Flags().VisitAll(func(f *pflag.Flag) { more = more && !f.Hidden && yield(f.Name) })
	})
	if meant == "" {
		return usageError(cmd, err)
	}
	return errs.Hint(errs.Mark(err, errs.Invalid), "did you mean --"+meant+"?")
}

// arguments takes the positional arguments that words name: "CONTEXT" exactly one, "[SHELL]" one or none, "FILE…" at
// least one, "[FILE…]" any number.
func arguments(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for i, word := range words {
			if i >= len(args) && !strings.HasPrefix(word, "[") {
				return usageError(cmd, fmt.Errorf("argument %s is missing", strings.TrimSuffix(word, "…")))
			}
			if strings.HasSuffix(strings.TrimSuffix(word, "]"), "…") {
				return nil
			}
		}
		if len(args) > len(words) {
			return usageError(cmd, fmt.Errorf("unexpected argument %q", args[len(words)]))
		}
		return nil
	}
}

// checkCommand refuses a command that does not exist, which cobra notices too late: it parses flags first, and would
// complain of a flag that the command meant would have known.
func checkCommand(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil {
		return usageError(root, err)
	}
	if !cmd.HasSubCommands() {
		return nil
	}
	for _, word := range rest {
		if strings.HasPrefix(word, "-") {
			continue
		}
		if cmd == root && (word == cobra.ShellCompRequestCmd || word == cobra.ShellCompNoDescRequestCmd) {
			return nil // what completion scripts call; cobra adds it when it runs
		}
		return unknownCommand(cmd, word)
	}
	return nil
}

func unknownCommand(parent *cobra.Command, word string) error {
	err := fmt.Errorf("unknown command %q", strings.TrimPrefix(parent.CommandPath()+" "+word, "slipway "))
	meant := suggest.Nearest(word, func(yield func(string) bool) {
		for _, c := range parent.Commands() {
			if !c.Hidden && !yield(c.Name()) {
				return
			}
		}
	})
	if meant == "" {
		return usageError(parent, err)
	}
	return errs.Hint(errs.Mark(err, errs.Invalid), "did you mean '"+parent.CommandPath()+" "+meant+"'?")
}
