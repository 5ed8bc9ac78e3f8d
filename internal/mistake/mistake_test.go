package mistake_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/mistake"
)

func TestExcerpt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   mistake.Error
		want string
	}{
		{"nothing to show", mistake.Error{Line: 3, Col: 1}, ""},
		{"a hint without a line", mistake.Error{Hint: "leave it out"}, "  leave it out\n"},
		{"a caret", mistake.Error{Line: 44, Col: 3, Source: "- name: x", Hint: "did you mean y?"}, "  44 | - name: x\n     |   ^ did you mean y?\n"},
		{"wide characters", mistake.Error{Line: 1, Col: 3, Source: "镜像: x"}, "  1 | 镜像: x\n    |     ^\n"},
		{"a column past the end", mistake.Error{Line: 1, Col: 4, Source: "a"}, "  1 | a\n    |    ^\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.in.Excerpt()); diff != "" {
				t.Errorf("Excerpt mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	if mistake.Errors(nil).OrNil() != nil {
		t.Error("no mistakes are an error")
	}
	late, early := &mistake.Error{File: "f", Line: 9, Col: 1, Msg: "late"}, &mistake.Error{File: "f", Line: 2, Col: 5, Msg: "early"}
	again := *early
	err := mistake.Errors{late, early, &again}.OrNil()
	if !errors.Is(err, errs.Invalid) {
		t.Errorf("%v is not of kind errs.Invalid", err)
	}
	if diff := cmp.Diff("f:2:5: early\nf:9:1: late", err.Error()); diff != "" {
		t.Errorf("mistakes by place, each once (-want +got):\n%s", diff)
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"  secret: abc":           "  secret: ***",
		"webhook: https://x?t=1":  "webhook: ***",
		"accessKeyId:":            "accessKeyId:",
		"image: registry/app:tag": "image: registry/app:tag",
	} {
		if got := mistake.Mask(in); got != want {
			t.Errorf("Mask(%q) = %q, want %q", in, got, want)
		}
	}
}
