package isolation

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseExtents(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       []extent
	}{
		{"by name", "ann:100000:65536\n", []extent{{1, 100000, 65536}}},
		{"by number", "1000:100000:65536", []extent{{1, 100000, 65536}}},
		{"several follow each other", "ann:100000:10\nbob:1:1\nann:200000:5\n", []extent{{1, 100000, 10}, {11, 200000, 5}}},
		{"others", "anna:1:2\nan:3:4\n10001:5:6\n", nil},
		{"nonsense", "ann\nann:1\nann:x:5\nann:1:-5\nann:0:5\nann:7:0\nann:99999999999:1\n# ann:1:2\n\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseExtents(strings.NewReader(tt.text), "ann", 1000)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(extent{})); diff != "" {
				t.Errorf("parseExtents(%q) mismatch (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

func TestHiddenInProc(t *testing.T) {
	t.Parallel()
	const proc = "22 28 0:21 / /proc rw,nosuid - proc proc rw\n30 22 0:27 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n"
	if got := hiddenInProc(proc); got != "" {
		t.Errorf("on a machine %q is hidden", got)
	}
	if got := hiddenInProc(proc + "31 22 0:5 /null /proc/kcore rw - tmpfs tmpfs rw\n"); got != "/proc/kcore" {
		t.Errorf("in a container %q is hidden", got)
	}
}

// A process that has only inherited the variable is not taken for one in a namespace of ours.
func TestStageNeedsItsSocket(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "root", "root:1", "wait:x"} {
		if _, ok := stageOf(value); ok {
			t.Errorf("stageOf(%q) is a stage", value)
		}
	}
}
