package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"slipway/internal/app"
	"slipway/internal/errs"
	"slipway/internal/mistake"
	"slipway/internal/pipeline/spec"
)

func newValidate(e env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "validate FILE|FOLDER…",
		Short: "Check pipeline files and s.yaml files",
		Long: `Check pipeline files and s.yaml files, and print every mistake as file:line:column:
message, with the line, a caret and what to do. A folder stands for the pipeline files
right in it. A pipeline may use templates from any of the files.
Variables such as <% .git.branch %> get sample values; in an s.yaml, variables of the
environment may be missing.`,
		Example: "  slipway validate cicd.yaml s.yaml\n  slipway validate pipelines/\n  slipway validate --output json cicd.yaml templates.yaml",
		GroupID: groupBuild,
		Args:    arguments("FILE|FOLDER…"),
		RunE: func(_ *cobra.Command, args []string) error {
			return validate(e, args, output)
		},
	}
	outputFlag(cmd.Flags(), &output)
	return cmd
}

func validate(e env, names []string, output format) error {
	names, pipelines := app.SFiles(names)
	var mistakes, warnings mistake.Errors
	check := func(found mistake.Errors, err error) error {
		warnings = append(warnings, found...)
		list, ok := errors.AsType[mistake.Errors](err)
		mistakes = append(mistakes, list...)
		if ok {
			return nil
		}
		return err
	}
	for _, name := range names {
		if err := check(app.CheckSFile(name)); err != nil {
			return err
		}
	}
	if len(pipelines) > 0 {
		files, err := app.PipelineFiles(pipelines)
		if err != nil {
			return err
		}
		if err := check(spec.Validate(files, spec.Options{Checkers: app.Checkers()})); err != nil {
			return err
		}
		for _, file := range files {
			names = append(names, file.Name)
		}
	}
	if output == asJSON {
		return errors.Join(printJSON(e.stdout, append(append(mistake.Errors{}, mistakes...), warnings...)), count(mistakes))
	}
	e.tellWarnings(warnings)
	if len(mistakes) > 0 {
		return e.tellMistakes(mistakes)
	}
	for _, name := range names {
		if _, err := fmt.Fprintf(e.stdout, "%s: ok\n", name); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
	}
	return nil
}

// tellMistakes shows each mistake in a file, with its line and what to do, and returns an error that counts
// them. Any other error is returned as it is.
func (e env) tellMistakes(err error) error {
	mistakes, ok := errors.AsType[mistake.Errors](err)
	if !ok {
		return err
	}
	for _, m := range mistakes {
		_, _ = fmt.Fprintf(e.stderr, "%s\n%s", redact(m.Error()), redact(m.Excerpt()))
	}
	return count(mistakes)
}

func (e env) tellWarnings(warnings mistake.Errors) {
	for _, w := range warnings {
		_, _ = fmt.Fprintf(e.stderr, "%s (warning)\n%s", redact(w.Error()), redact(w.Excerpt()))
	}
}

// count is the error for mistakes that have been shown.
func count(mistakes mistake.Errors) error {
	switch len(mistakes) {
	case 0:
		return nil
	case 1:
		return errs.Mark(errors.New("1 mistake in "+mistakes[0].File), errs.Invalid)
	default:
		return errs.Mark(fmt.Errorf("%d mistakes", len(mistakes)), errs.Invalid)
	}
}
