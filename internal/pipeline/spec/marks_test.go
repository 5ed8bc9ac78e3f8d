package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/spec"
)

// Where the ${{ of a scalar stand, whatever its style, and that a value's own does not count.
func TestMarks(t *testing.T) {
	t.Parallel()
	file := `kind: Pipeline
name: p
spec:
  templateSpec:
    tasks:
      - name: a
        taskTemplate: build-image-task
        context:
          data:
            plain: x ${{ one }} <% .evil %> ${{ two }}
            quoted: "${{ one }}"
            block: |
              first
              部署 ${{ one }}${{ two
            none: <% .evil %>
`
	opts := spec.Options{Variables: map[string]string{"evil": "${{ secrets.x }}"}}
	p, _, err := spec.Resolve([]*spec.File{spec.Parse("f.yaml", []byte(file))}, opts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, key := range []string{"plain", "quoted", "block", "none"} {
		v := p.Tasks[0].Data.Get(key)
		for _, m := range v.Marks {
			if !strings.HasPrefix(v.Text[m.Offset:], "${{") {
				t.Errorf("%s: no ${{ at %d of %q", key, m.Offset, v.Text)
			}
			got = append(got, fmt.Sprintf("%s %s, word at %s", key, m.Origin, v.Place(m.Offset+4)))
		}
	}
	want := []string{
		"plain f.yaml:10:22, word at f.yaml:10:26",
		"plain f.yaml:10:45, word at f.yaml:10:49",
		"quoted f.yaml:11:22, word at f.yaml:11:26",
		"block f.yaml:14:18, word at f.yaml:14:22",
		"block f.yaml:14:28, word at f.yaml:14:32",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("marks mismatch (-want +got):\n%s", diff)
	}
	if at := (*pipeline.Value)(nil).Place(3); at != (pipeline.Origin{}) {
		t.Errorf("place of nothing: %v", at)
	}
}
