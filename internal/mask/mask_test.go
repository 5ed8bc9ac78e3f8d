package mask_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"slipway/internal/mask"
)

func TestText(t *testing.T) {
	t.Parallel()
	const secret = "p@ss/w\"ord+ä 1"
	asJSON, err := json.Marshal(map[string]string{"k": secret})
	if err != nil {
		t.Fatal(err)
	}
	m := mask.New(secret, "abc", "", "   ", "line one\nline two\n")
	for name, text := range map[string]string{
		"plain":            "before " + secret + " after " + secret,
		"query":            url.QueryEscape(secret),
		"path":             url.PathEscape(secret),
		"lower-case hex":   strings.ToLower(url.QueryEscape(secret)),
		"JSON":             string(asJSON),
		"base64":           base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 of a pair": base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
		"base64 in front":  base64.StdEncoding.EncodeToString([]byte(secret + ":x")),
		"base64 for URLs":  base64.RawURLEncoding.EncodeToString([]byte("xx" + secret + "yy")),
		"a line":           "line two",
	} {
		got := m.Text(text)
		if !strings.Contains(got, mask.Hidden) || strings.Contains(got, "ord") || strings.Contains(got, "line two") {
			t.Errorf("%s: %q became %q", name, text, got)
		}
	}
	for _, text := range []string{"", "abcdef", "pass", "nothing   here", fmt.Sprint(1)} {
		if got := m.Text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := (&mask.Masker{}).Text("text"); got != "text" {
		t.Errorf("a masker of nothing made %q", got)
	}
}

// FuzzText: whatever a secret is, none of its plain form is left.
func FuzzText(f *testing.F) {
	f.Add("hunter2", "my hunter2 is hunter2")
	f.Add("a b", "xa bx")
	f.Add("****", "*****")
	f.Fuzz(func(t *testing.T, secret, text string) {
		if len(secret) < 4 || strings.TrimSpace(secret) == "" || strings.Contains(mask.Hidden+mask.Hidden, secret) {
			return
		}
		got := mask.New(secret).Text(text)
		// A mask beside text may spell a secret of stars; no other.
		if strings.Contains(got, secret) && !strings.Contains(secret, "*") {
			t.Errorf("%q in %q left %q", secret, text, got)
		}
	})
}
