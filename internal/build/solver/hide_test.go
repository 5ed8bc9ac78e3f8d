package solver

import "testing"

func TestHiding(t *testing.T) {
	t.Parallel()
	hide := hiding(map[string][]byte{"one": []byte("s3cret\n"), "key": []byte("-----BEGIN-----\nabcdef\n  ghijkl  \n"), "short": []byte("abc"), "none": nil})
	for line, want := range map[string]string{
		"token s3cret, s3cret!": "token ****, ****!",
		"abcdef":                "****",
		"ghijkl":                "****",
		"abc":                   "abc",
		"":                      "",
	} {
		if got := hide(line); got != want {
			t.Errorf("%q is shown as %q, want %q", line, got, want)
		}
	}
	if got := hiding(nil)("as it is"); got != "as it is" {
		t.Errorf("without secrets a line is shown as %q", got)
	}
}
