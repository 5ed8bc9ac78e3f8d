package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"slipway/internal/pipeline/spec"
)

// BenchmarkResolve reads a pipeline of 200 tasks, each with a build and a variable.
func BenchmarkResolve(b *testing.B) {
	var text strings.Builder
	text.WriteString("kind: Pipeline\nname: p\nspec:\n  templateSpec:\n    context: {data: {enable: true, runnerConfig: {timeout: 60}}}\n    tasks:\n")
	for i := range 200 {
		fmt.Fprintf(&text, "      - name: task-%d\n        taskTemplate: build-image-task\n        context: {data: {build: {image: 'r.example.com/a:<%% .git.shortCommitId %%>'}}}\n", i)
		if i > 0 {
			fmt.Fprintf(&text, "        runAfters: [task-%d]\n", i-1)
		}
	}
	data := []byte(text.String())
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, _, err := spec.Resolve([]*spec.File{spec.Parse("f.yaml", data)}, options()); err != nil {
			b.Fatal(err)
		}
	}
}
