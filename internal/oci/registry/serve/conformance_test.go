package serve_test

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/oci/registry/serve"
)

// TestConformance runs the distribution-spec's own suite, with all the tests of the coming version switched on too. The
// suite's module is pinned in conformance/go.mod.
func TestConformance(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the conformance suite")
	}
	suite := buildSuite(t)
	r := start(t, serve.Options{Dir: t.TempDir()})

	results := t.TempDir()
	cmd := exec.CommandContext(t.Context(), suite)
	cmd.Dir = results
	cmd.Env = []string{
		"OCI_REGISTRY=" + r.Addr(), "OCI_TLS=disabled", "OCI_VERSION=dev", "OCI_RESULTS_DIR=" + results,
	}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("conformance suite: %v\n%s", err, output)
	}
	counts := junit(t, filepath.Join(results, "junit.xml"))
	t.Logf("conformance: %v", counts)
	if counts["passed"] < 200 || counts["failed"]+counts["error"] > 0 {
		t.Errorf("conformance results %v, want 200 passed or more and none failed", counts)
	}
}

// buildSuite skips the test where the suite cannot be downloaded, and only there.
func buildSuite(t *testing.T) string {
	t.Helper()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = "conformance"
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=0")
		output, err := cmd.CombinedOutput()
		return string(output), err
	}
	if output, err := run("mod", "download"); err != nil {
		t.Skipf("the conformance suite is not to be had here: %v\n%s", err, output)
	}
	suite := filepath.Join(t.TempDir(), "conformance")
	if output, err := run("build", "-o", suite, "github.com/opencontainers/distribution-spec/conformance"); err != nil {
		t.Fatalf("build the conformance suite: %v\n%s", err, output)
	}
	return suite
}

// junit counts the suite's test cases by their status.
func junit(t *testing.T, path string) map[string]int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
			Out    string `xml:"system-out"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, c := range report.Cases {
		counts[strings.ToLower(c.Status)]++
		if c.Status != "passed" {
			t.Logf("%s: %s: %s", c.Status, c.Name, c.Out)
		}
	}
	return counts
}
