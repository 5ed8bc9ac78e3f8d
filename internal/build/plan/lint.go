package plan

import (
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"slipway/internal/build/dockerfile"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// lintStages warns about names of stages and the case of instructions.
func (p *planner) lintStages(stages []instructions.Stage) {
	seen := map[string]bool{}
	for _, st := range stages {
		if st.Name == "" {
			continue
		}
		if st.Name == "context" || st.Name == scratch {
			p.lint.Run(&linter.RuleReservedStageName, st.Location, linter.RuleReservedStageName.Format(st.Name))
		}
		if seen[st.Name] {
			p.lint.Run(&linter.RuleDuplicateStageName, st.Location, linter.RuleDuplicateStageName.Format(st.Name))
		}
		seen[st.Name] = true
	}
	p.lintCasing(stages)
}

// lintCasing warns about instructions that are not written in the case that most are.
func (p *planner) lintCasing(stages []instructions.Stage) {
	type word struct {
		name string
		at   []parser.Range
	}
	var words []word
	for _, st := range stages {
		words = append(words, word{st.OrigCmd, st.Location})
		for _, c := range st.Commands {
			words = append(words, word{c.Name(), c.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.name {
		case strings.ToLower(w.name):
			lower++
		case strings.ToUpper(w.name):
			upper++
		}
	}
	change, casing := strings.ToUpper, "uppercase"
	if lower > upper {
		change, casing = strings.ToLower, "lowercase"
	}
	for _, w := range words {
		if w.name != change(w.name) {
			p.lint.Run(&linter.RuleConsistentInstructionCasing, w.at, linter.RuleConsistentInstructionCasing.Format(w.name, casing))
		}
	}
}

// lintDefaultBases warns about bases that are no reference unless build arguments make them one.
func (p *planner) lintDefaultBases(args []instructions.ArgCommand, stages []instructions.Stage) {
	defaults := &planner{file: p.file, lex: p.lex, global: p.global.clone(), declared: map[string]struct{}{}}
	if defaults.globalArgs(args) != nil {
		return // the plan itself will fail over it
	}
	for _, st := range stages {
		word, _, err := p.lex.ProcessWord(st.BaseName, defaults.global)
		if err != nil {
			return
		}
		if _, err := ref.Parse(word); err != nil {
			p.lint.Run(&linter.RuleInvalidDefaultArgInFrom, st.Location, linter.RuleInvalidDefaultArgInFrom.Format(st.BaseName))
		}
	}
}

// lintFrom warns about variables of a FROM that no ARG before it declares.
func (p *planner) lintFrom(unmatched map[string]struct{}, at []parser.Range, lint *linter.Linter) {
	for _, name := range sortedKeys(unmatched) {
		if _, ok := p.declared[name]; ok {
			continue
		}
		msg := linter.RuleUndefinedArgInFrom.Format(name, "") + dockerfile.DidYouMean(name, sortedKeys(p.declared))
		lint.Run(&linter.RuleUndefinedArgInFrom, at, msg)
	}
}

// lintPlatform warns about a --platform that says what is the default, or that names one platform for good.
func (p *planner) lintPlatform(inst *instructions.Stage, word shell.ProcessWordResult, lint *linter.Linter) {
	at := inst.Location
	if len(word.Matched)+len(word.Unmatched) == 0 {
		platform, err := parsePlatform(word.Result, p.opts.BuildPlatform)
		if err == nil && !strings.Contains(inst.Name, platform.OS) && !strings.Contains(inst.Name, platform.Architecture) {
			lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, at, linter.RuleFromPlatformFlagConstDisallowed.Format(word.Result))
		}
		return
	}
	_, uses := word.Matched["TARGETPLATFORM"]
	if value, _ := p.global.Get("TARGETPLATFORM"); uses && value == word.Result && len(word.Matched) == 1 && len(word.Unmatched) == 0 {
		lint.Run(&linter.RuleRedundantTargetPlatform, at, linter.RuleRedundantTargetPlatform.Format(inst.Platform))
	}
}

// lintBasePlatform warns about an image that is for another platform than was asked for.
func (s *stage) lintBasePlatform() {
	want, got := s.platform, normalizePlatform(s.base.image.Config.Platform)
	if want.OS != got.OS || want.Architecture != got.Architecture {
		s.lint.Run(&linter.RuleInvalidBaseImagePlatform, s.inst.Location,
			linter.RuleInvalidBaseImagePlatform.Format(s.base.name, oci.FormatPlatform(want), oci.FormatPlatform(got)))
	}
}

// lintUndefined warns about variables that nothing sets. When the base's config is not known, it may set them.
func (s *stage) lintUndefined(c command, unmatched map[string]struct{}, lint *linter.Linter) {
	if s.unknown {
		return
	}
	for _, arg := range s.args {
		delete(unmatched, arg.Key)
	}
	for _, name := range sortedKeys(unmatched) {
		if scanArg(name) {
			continue
		}
		msg := linter.RuleUndefinedVar.Format(name, "") + dockerfile.DidYouMean("$"+name, dollars(s.env.Keys()))
		lint.Run(&linter.RuleUndefinedVar, c.Location(), msg)
	}
}

// dollars writes names as variables.
func dollars(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = "$" + n
	}
	return out
}

// lintKeyValue warns about "ENV name value".
func (s *stage) lintKeyValue(c command, kv instructions.KeyValuePair, lint *linter.Linter) {
	if kv.NoDelim {
		lint.Run(&linter.RuleLegacyKeyValueFormat, c.Location(), linter.RuleLegacyKeyValueFormat.Format(c.Name()))
	}
}

// lintIgnored warns about a source that the ignore file hides. With exceptions in it that cannot be told from a name.
func (s *stage) lintIgnored(c command, instruction, src string, lint *linter.Linter) {
	src = path.Clean(src)
	patterns := s.opts.Ignore.Patterns()
	for _, p := range patterns {
		if strings.HasPrefix(p, "!") {
			return
		}
	}
	hidden := hidesAll(patterns)
	if src != "." && src != "/" { // the root itself is never hidden
		var err error
		if hidden, err = s.opts.Ignore.Hides(strings.TrimPrefix(src, "/")); err != nil {
			return // reading the context will fail over it
		}
	}
	if hidden {
		name := instruction[:1] + strings.ToLower(instruction[1:])
		lint.Run(&linter.RuleCopyIgnoredFile, c.Location(), linter.RuleCopyIgnoredFile.Format(name, src))
	}
}

func hidesAll(patterns []string) bool {
	for _, p := range patterns {
		switch p {
		case "*", "**", "**/*":
			return true
		}
	}
	return false
}

// lintSecret warns about a variable whose name says that it holds a secret, which would stay in the image.
func lintSecret(instruction, name string, at []parser.Range, lint *linter.Linter) {
	if hasWord(name, "apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token") &&
		!hasWord(name, "public", "file", "version") {
		lint.Run(&linter.RuleSecretsUsedInArgOrEnv, at, linter.RuleSecretsUsedInArgOrEnv.Format(instruction, name))
	}
}

// hasWord says whether a name has one of the words between its underscores, in any case.
func hasWord(name string, words ...string) bool {
	for part := range strings.SplitSeq(strings.ToLower(name), "_") {
		for _, w := range words {
			if part == w {
				return true
			}
		}
	}
	return false
}
