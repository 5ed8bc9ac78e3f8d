// Package mask hides secrets in text: as they are, and in the encodings in which programs print them by mistake: in
// URLs, in JSON, and in base64 wherever they may stand in what was encoded, such as user:secret.
//
// Masking is the last line and no defence: a program that means to can print a secret so that nobody recognizes it.
package mask

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Hidden is what stands in the place of a secret.
const Hidden = "***"

// shortest is how long a secret, or a line of one, must be to be masked: what is shorter would mask half of a log, and
// can be guessed anyway. shortestCode is the same for the part of an encoded secret that does not depend on what stands
// beside it.
const (
	shortest     = 4
	shortestCode = 6
)

// base64Line is where the program base64 breaks its lines.
const base64Line = 76

// Masker hides the secrets that it knows. The zero value knows none. Its methods may be called at once.
type Masker struct {
	mu    sync.RWMutex
	words []string // longest first
}

// New returns a masker of some secrets.
func New(secrets ...string) *Masker {
	m := &Masker{}
	m.Add(secrets...)
	return m
}

// Add makes secrets known. Each line of a secret is one of its own: logs are printed by the line.
func (m *Masker) Add(secrets ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, secret := range secrets {
		forms := append([]string{secret, strings.TrimSpace(secret)}, strings.Split(secret, "\n")...)
		for _, form := range forms {
			if form != secret {
				form = strings.TrimSpace(form)
			}
			if len(form) >= shortest && strings.TrimSpace(form) != "" {
				m.words = append(append(m.words, form), encoded(form)...)
			}
		}
	}
	slices.SortFunc(m.words, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	m.words = slices.Compact(m.words)
}

// encoded are the forms other than plain that a secret is found in.
func encoded(secret string) []string {
	var words []string
	for _, w := range []string{url.QueryEscape(secret), url.PathEscape(secret), quoted(secret)} {
		if w != secret {
			words = append(words, w, lowerEscapes(w))
		}
	}
	for before := range 3 {
		plain := append(make([]byte, before), secret...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			code := encoding.EncodeToString(plain)
			// Six bits a letter: the first ones hold bits of what stands before, the last one of what comes after.
			code = code[(before*8+5)/6 : len(plain)*8/6]
			if len(code) < shortestCode {
				continue
			}
			words = append(words, code)
			for len(code) > base64Line {
				words, code = append(words, code[:base64Line]), code[base64Line:]
			}
		}
	}
	return words
}

// quoted is how JSON writes a string between its quotes.
func quoted(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		return s
	}
	return string(data[1 : len(data)-1])
}

// lowerEscapes writes %2F as %2f.
func lowerEscapes(s string) string {
	out := []byte(s)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:i+3], strings.ToLower(s[i+1:i+3]))
		}
	}
	return string(out)
}

// Text hides the secrets in s.
func (m *Masker) Text(s string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, w := range m.words {
		if strings.Contains(s, w) {
			s = strings.ReplaceAll(s, w, Hidden)
		}
	}
	return s
}
