package serverless

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	t.Parallel()
	const secret = "p4ss/w\"ord+<&>"
	m := &masker{}
	m.add(secret, "abc", "two\n  lines-of-it\n", "")
	marshaled, err := json.Marshal(map[string]string{"password": secret})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ in, want string }{
		"plain":             {"x " + secret + " y", "x *** y"},
		"twice":             {secret + secret, "******"},
		"query":             {"?a=" + url.QueryEscape(secret) + "&b", "?a=***&b"},
		"path":              {"/" + url.PathEscape(secret) + "/", "/***/"},
		"lower-case path":   {"/" + strings.NewReplacer("%2F", "%2f", "%3C", "%3c", "%3E", "%3e").Replace(url.PathEscape(secret)) + "/", "/***/"},
		"JSON":              {string(marshaled), `{"password":"***"}`},
		"too short to mask": {"abc", "abc"},
		"a line of it":      {"then lines-of-it.", "then ***."},
		"nothing":           {"p4ss", "p4ss"},
	} {
		if got := m.text(tt.in); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	for _, around := range [][2]string{{"", ""}, {"u:", ""}, {"me:", ";"}, {"user:", "\n"}, {"a", "b"}} {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			code := encoding.EncodeToString([]byte(around[0] + secret + around[1]))
			got := m.text(code)
			plain, err := encoding.DecodeString(strings.ReplaceAll(got, hidden, ""))
			if !strings.Contains(got, hidden) || err == nil && bytes.Contains(plain, []byte("p4ss")) || len(got)-len(hidden) > 12 {
				t.Errorf("%q in base64: %s, masked %s", around, code, got)
			}
		}
	}
}

// The program base64 breaks its lines, in the middle of what it encodes.
func TestMaskOfLongBase64(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("0123456789abcdef", 10)
	m := &masker{}
	m.add(secret)
	code := base64.StdEncoding.EncodeToString([]byte(secret))
	for len(code) > base64Line {
		if got := m.text(code[:base64Line]); got != hidden {
			t.Errorf("a line of base64: %s", got)
		}
		code = code[base64Line:]
	}
}

func FuzzMask(f *testing.F) {
	f.Add("secret", "a secret b", 3)
	f.Add("aaaa", "aaaaaaaaa", 5)
	f.Fuzz(func(t *testing.T, secret, text string, limit int) {
		m := &masker{}
		m.add(secret)
		if len(strings.TrimSpace(secret)) >= shortestSecret && !strings.Contains(hidden, secret) && strings.Contains(m.text("x"+strings.TrimSpace(secret)+"y"), strings.TrimSpace(secret)) {
			t.Errorf("%q is not masked", secret)
		}
		if limit < 0 || limit > len(text) {
			return
		}
		at := m.cut(text, limit)
		if at < 0 || at > limit {
			t.Fatalf("cut(%q, %d) = %d", text, limit, at)
		}
		for _, w := range m.words {
			for i := range text {
				if i < at && at < i+len(w) && strings.HasPrefix(text[i:], w) {
					t.Errorf("cut(%q, %d) = %d, inside %q", text, limit, at, w)
				}
			}
		}
	})
}
