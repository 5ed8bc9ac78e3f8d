package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestSign(t *testing.T) {
	t.Parallel()
	b, err := newBook()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"": http.StatusBadRequest, "<b>Ada</b>": http.StatusSeeOther} {
		r := httptest.NewRequest(http.MethodPost, "/names", strings.NewReader(url.Values{"name": {name}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		b.handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("signing as %q: status %d, want %d", name, w.Code, want)
		}
	}
	w := httptest.NewRecorder()
	b.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if !strings.Contains(w.Body.String(), "<li>&lt;b&gt;Ada&lt;/b&gt;</li>") {
		t.Errorf("the page does not list the name, or not safely:\n%s", w.Body)
	}
}
