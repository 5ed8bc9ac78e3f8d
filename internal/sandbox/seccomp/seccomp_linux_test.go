package seccomp_test

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/sandbox/seccomp"
	"slipway/internal/sandbox/seccomp/compile"
)

func TestProgramIsCurrent(t *testing.T) {
	t.Parallel()
	prog, err := compile.Docker(runtime.GOARCH, compile.Capabilities())
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for _, in := range prog {
		want = binary.LittleEndian.AppendUint16(want, in.Op)
		want = binary.LittleEndian.AppendUint32(append(want, in.Jt, in.Jf), in.K)
	}
	if diff := cmp.Diff(want, []byte(seccomp.Program())); diff != "" {
		t.Errorf("program differs from the profile's, run go generate ./internal/sandbox/seccomp (-want +got):\n%s", diff)
	}
}
