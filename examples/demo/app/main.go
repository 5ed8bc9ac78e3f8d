// Command guestbook is a small web application: visitors leave their names, and a page lists them.
package main

import (
	"embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var files embed.FS

// book is the names of the visitors. It forgets them when the program ends.
type book struct {
	page *template.Template

	mu    sync.Mutex
	names []string
}

func newBook() (*book, error) {
	page, err := template.ParseFS(files, "page.html")
	return &book{page: page}, err
}

func (b *book) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", b.list)
	mux.HandleFunc("POST /names", b.add)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

func (b *book) list(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	names := append([]string{}, b.names...)
	b.mu.Unlock()
	if err := b.page.Execute(w, names); err != nil {
		slog.Error("render the page", slog.Any("error", err))
	}
}

func (b *book) add(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimSpace(r.FormValue("name"))
	if name == "" || len(name) > 100 {
		http.Error(w, "a name has 1 to 100 bytes", http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	b.names = append(b.names, name)
	b.mu.Unlock()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func main() {
	b, err := newBook()
	if err == nil {
		addr := os.Getenv("ADDR")
		slog.Info("listening", slog.String("addr", addr))
		server := &http.Server{Addr: addr, Handler: b.handler(), ReadHeaderTimeout: 10 * time.Second}
		err = server.ListenAndServe()
	}
	if !errors.Is(err, http.ErrServerClosed) {
		slog.Error("serve", slog.Any("error", err))
		os.Exit(1)
	}
}
