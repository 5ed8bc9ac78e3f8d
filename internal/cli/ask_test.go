package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, typed string
		want        bool
		err         string
		asked       int
	}{
		{"yes", "y\n", true, "", 1},
		{"YES", " YES \r\n", true, "", 1},
		{"no", "no\n", false, "", 1},
		{"until it is one", "\nyep\nn\n", false, "", 3},
		{"the input ends", "", false, "no answer", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var said bytes.Buffer
			got, err := decide(struct {
				io.Reader
				io.Writer
			}{strings.NewReader(tt.typed), &said}, "deploy")
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("decide = %v, %v; want %v, %q", got, err, tt.want, tt.err)
			}
			if n := strings.Count(said.String(), "deploy waits for approval. Go on? [y/n] "); n != tt.asked {
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
		})
	}
}
