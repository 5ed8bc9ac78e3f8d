package fake_test

import (
	"testing"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/runner/fake"
	"slipway/internal/pipeline/runnertest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	runnertest.Test(t, func(*testing.T) pipeline.Runner { return fake.Runner{} })
}
