package remote

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/oci"
)

// TestApplyBounds keeps a cache from growing beyond what a manifest can list.
func TestApplyBounds(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	old := Records{}
	for i := range maxEntries {
		old[digest.FromString(fmt.Sprint(i))] = Entry{Used: start.Add(time.Duration(i))}
	}
	added := digest.FromString("added")
	got, changed := Update{Records: map[oci.Digest]build.Record{added: {}}, Now: start.Add(time.Hour)}.apply(old)
	if len(got) != maxEntries || !changed {
		t.Errorf("%d entries, changed %v; want %d, true", len(got), changed, maxEntries)
	}
	if _, ok := got[added]; !ok {
		t.Error("the new entry is gone")
	}
	if _, ok := got[digest.FromString("0")]; ok {
		t.Error("the entry that was used longest ago is still there")
	}
}
