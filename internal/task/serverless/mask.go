package serverless

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// hidden is what stands in the place of a secret.
const hidden = "***"

// shortestSecret is how long a secret, or a line of one, must be to be masked: what is shorter would mask half of a log,
// and can be guessed anyway.
const shortestSecret = 4

// shortestCode is the same for the part of an encoded secret that does not depend on what stands beside it.
const shortestCode = 6

// base64Line is where the program base64 breaks its lines.
const base64Line = 76

// masker hides secrets in text: as they are, and in the encodings in which programs print them by mistake. Its methods
// may be called at once; add may come at any time.
type masker struct {
	mu    sync.RWMutex
	words []string // longest first
}

// add makes secrets known. Each line of a secret is one of its own: logs are printed by the line.
func (m *masker) add(secrets ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, secret := range secrets {
		if strings.TrimSpace(secret) != secret || strings.Contains(secret, "\n") {
			m.words = append(m.words, encoded(strings.TrimSpace(secret))...)
		}
		m.words = append(m.words, encoded(secret)...)
		for line := range strings.SplitSeq(secret, "\n") {
			if line = strings.TrimSpace(line); len(line) >= shortestSecret {
				m.words = append(m.words, line)
				m.words = append(m.words, encoded(line)...)
			}
		}
	}
	slices.SortFunc(m.words, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	m.words = slices.Compact(m.words)
}

// encoded are the forms other than plain that a secret is found in: in URLs, in JSON, and in base64 wherever it may
// stand in what was encoded, such as user:secret.
func encoded(secret string) []string {
	if len(secret) < shortestSecret {
		return nil
	}
	var words []string
	for _, w := range []string{url.QueryEscape(secret), url.PathEscape(secret), quoted(secret)} {
		if w != secret && len(w) >= shortestSecret {
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

// text hides the secrets in s.
func (m *masker) text(s string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, w := range m.words {
		if strings.Contains(s, w) {
			s = strings.ReplaceAll(s, w, hidden)
		}
	}
	return s
}

// longest is the length of the longest word.
func (m *masker) longest() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.words) == 0 {
		return 0
	}
	return len(m.words[0])
}

// cut is the last place at or before limit where text can be cut in two without cutting a word. The text goes on at least
// longest bytes behind limit, or ends.
func (m *masker) cut(text string, limit int) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for moved := true; moved; {
		moved = false
		for _, w := range m.words {
			from := max(0, limit-len(w)+1)
			if i := strings.Index(text[from:min(len(text), limit+len(w)-1)], w); i >= 0 && from+i < limit {
				limit, moved = from+i, true
			}
		}
	}
	return limit
}
