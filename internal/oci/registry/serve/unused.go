package serve

import (
	"net"
	"net/http"
	"sync"
)

// unused keeps the connections on which no request has come yet. Clients open some ahead of need, and net/http's
// Shutdown would wait seconds for a request that never comes.
type unused struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// track is an http.Server's ConnState.
func (u *unused) track(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if state != http.StateNew {
		delete(u.conns, c)
		return
	}
	if u.conns == nil {
		u.conns = map[net.Conn]struct{}{}
	}
	u.conns[c] = struct{}{}
}

// close ends the connections. Nothing was promised on them.
func (u *unused) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.conns {
		_ = c.Close() // it is the client's to notice
	}
}
