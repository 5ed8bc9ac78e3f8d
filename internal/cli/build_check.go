package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"slipway/internal/app"
	"slipway/internal/build/dockerfile"
	"slipway/internal/cli/progress"
	"slipway/internal/errs"
)

// checkFlags adds the flags that lint instead of build.
func (f *buildFlags) checkFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.check, "check", false, "lint the Dockerfile and build nothing: print each warning and exit 1 if there are any; with '-o json' as JSON")
	flags.StringVar(&f.call, "call", "build", "what to do, as buildx has it: `build|check[,format=text|json]`")
}

// parseCall says whether to check instead of to build, and how to print what is found.
func (f *buildFlags) parseCall() (checking bool, err error) {
	method, options, _ := strings.Cut(f.call, ",")
	switch method {
	case "build", "":
		checking = f.check
	case "check", "lint":
		checking = true
	default:
		err := fmt.Errorf("--call %q: want build or check: %w", f.call, errs.Invalid)
		return false, errs.Hint(err, "outlines and lists of targets are not supported")
	}
	if options != "" {
		word, ok := strings.CutPrefix(options, "format=")
		if !ok || !checking {
			return false, fmt.Errorf("--call %q: want check,format=text or check,format=json: %w", f.call, errs.Invalid)
		}
		f.outputs = append(f.outputs, word)
	}
	if !checking {
		return false, nil
	}
	for _, o := range f.outputs {
		if o != string(asText) && o != string(asJSON) {
			return false, fmt.Errorf("--output %q: a check builds nothing, and is printed as text or json: %w", o, errs.Invalid)
		}
		f.format = format(o)
	}
	f.outputs = nil
	if f.Push {
		return false, fmt.Errorf("--push: a check builds nothing that could be pushed: %w", errs.Invalid)
	}
	return true, nil
}

// runCheck lints. Warnings are the result of a check, and on standard output; that there are any is its failure.
func runCheck(ctx context.Context, e env, f *buildFlags) error {
	// A base image that does not answer at once leaves a few rules unchecked; nothing is worth waiting for it.
	a, err := openApp(e, f.words, func(o *app.Options) { o.Tries = 1 })
	if err != nil {
		return err
	}
	show, err := e.display(f.mode)
	if err != nil {
		return err
	}
	f.Events = show.Event
	checked, failure := a.Check(ctx, f.Build)
	if err := show.Close(); err != nil {
		return errors.Join(failure, err)
	}
	write := printWarnings
	if f.format == asJSON {
		write = func(w io.Writer, c *app.Checked) error { return printJSON(w, lintResult(c, failure)) }
	}
	if err := write(e.stdout, checked); err != nil {
		return errors.Join(failure, err)
	}
	if failure != nil {
		return failure
	}
	switch n := len(checked.Warnings); n {
	case 0:
		_, err = fmt.Fprintln(e.stderr, "slipway: check complete, no warnings found")
		return err
	case 1:
		err = errors.New("check complete, 1 warning has been found")
	default:
		err = fmt.Errorf("check complete, %d warnings have been found", n)
	}
	return errs.Hint(err, "a comment '# check=skip=RULE' above an instruction, or as the first line of the file, says that it is meant so")
}

// printWarnings prints each warning as compilers do, so that editors find the place.
func printWarnings(w io.Writer, c *app.Checked) error {
	var b strings.Builder
	for i, found := range c.Warnings {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s: warning: %s [%s]\n", found.Place(), progress.Clean(found.Msg, maxMessage), found.Rule)
		writeExcerpt(&b, found.Source)
		if found.URL != "" {
			fmt.Fprintf(&b, "  see %s\n", found.URL)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Lint results as BuildKit's frontend has them, which buildx prints for --call check,format=json.
type (
	lintResults struct {
		Warnings []lintWarning `json:"warnings"`
		Sources  []lintSource  `json:"sources"`
		Error    *lintFailure  `json:"buildError,omitempty"`
	}
	lintWarning struct {
		Rule   string    `json:"ruleName"`
		About  string    `json:"description,omitempty"`
		URL    string    `json:"url,omitempty"`
		Detail string    `json:"detail,omitempty"`
		At     lintPlace `json:"location"`
	}
	lintSource struct {
		Name     string `json:"filename"`
		Language string `json:"language"`
		Data     []byte `json:"data"`
	}
	lintFailure struct {
		Message string    `json:"message"`
		At      lintPlace `json:"location"`
	}
	lintPlace struct {
		Source int         `json:"sourceIndex,omitempty"`
		Ranges []lintRange `json:"ranges,omitempty"`
	}
	lintRange struct {
		Start lintLine `json:"start"`
		End   lintLine `json:"end"`
	}
	lintLine struct {
		Line int `json:"line"`
	}
)

func lintResult(c *app.Checked, failure error) lintResults {
	r := lintResults{Warnings: []lintWarning{}, Sources: []lintSource{}}
	if c.File != nil {
		r.Sources = append(r.Sources, lintSource{Name: c.File.Name, Language: "Dockerfile", Data: []byte(c.File.Text())})
	}
	for _, w := range c.Warnings {
		r.Warnings = append(r.Warnings, lintWarning{Rule: w.Rule, About: w.About, URL: w.URL, Detail: w.Msg, At: lintAt(w.First, w.Last)})
	}
	if failure != nil {
		r.Error = &lintFailure{Message: redact(failure.Error())}
		if e, ok := errors.AsType[*dockerfile.Error](failure); ok {
			r.Error.At = lintAt(e.Source.Line, e.Source.Line+len(e.Source.Lines)-1)
		}
	}
	return r
}

func lintAt(first, last int) lintPlace {
	if first < 1 {
		return lintPlace{}
	}
	return lintPlace{Ranges: []lintRange{{Start: lintLine{first}, End: lintLine{last}}}}
}
