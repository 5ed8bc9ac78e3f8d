package sqlite_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/store/sqlite"
	"slipway/internal/pipeline/store/storetest"
)

func open(t *testing.T, path string, opts sqlite.Options) *sqlite.DB {
	t.Helper()
	if opts.Now == nil {
		opts.Now = time.Now
	}
	db, err := sqlite.Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Test(t, func(t *testing.T) store.Store {
		return open(t, filepath.Join(t.TempDir(), "slipway.db"), sqlite.Options{})
	})
}

// TestContractBeside runs the contract while another process, as good as, has the file open and looks into it.
func TestContractBeside(t *testing.T) {
	t.Parallel()
	storetest.Test(t, func(t *testing.T) store.Store {
		path := filepath.Join(t.TempDir(), "a folder?", "slip#way.db") // what a URL would trip over
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		other := open(t, path, sqlite.Options{})
		if err := other.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		return open(t, path, sqlite.Options{})
	})
}

func TestTwoProcessesClaim(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "slipway.db")
	one, two := open(t, path, sqlite.Options{}), open(t, path, sqlite.Options{})
	const runs = 12
	enqueue(t, one, runs)
	var mu sync.Mutex
	seen := map[int64]int{}
	var group sync.WaitGroup
	for _, db := range []*sqlite.DB{one, two, one, two} {
		group.Go(func() {
			for {
				a, err := db.Claim(t.Context(), store.ClaimOptions{Owner: "o", Lease: time.Hour, Slots: runs})
				if errors.Is(err, errs.NotFound) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[a.Run]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for run, n := range seen {
		if n != 1 {
			t.Errorf("run %d was claimed %d times", run, n)
		}
	}
	if len(seen) != runs {
		t.Errorf("%d runs were claimed, want %d", len(seen), runs)
	}
}

// enqueue makes n runs, each with one task that is queued.
func enqueue(t *testing.T, db *sqlite.DB, n int) {
	t.Helper()
	app, err := db.CreateApp(t.Context(), store.App{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		r, err := db.CreateRun(t.Context(), store.NewRun{AppID: app.ID, Tasks: []store.NewTask{{Name: "t"}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.StartRun(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Apply(t.Context(), r.ID, []store.Move{{Task: "t", From: pipeline.Pending, To: pipeline.Queued}}); err != nil {
			t.Fatal(err)
		}
	}
}

// clock is a wall clock that can be set, and the machine's own that cannot.
type clock struct {
	mu     sync.Mutex
	wall   time.Time
	uptime time.Duration
	boot   string
}

func (c *clock) options() sqlite.Options {
	return sqlite.Options{
		Boot:   c.boot,
		Now:    func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.wall },
		Uptime: func() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return c.uptime },
	}
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.uptime = c.wall.Add(d), c.uptime+d
}

func (c *clock) set(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = c.wall.Add(by)
}

func TestClockIsSet(t *testing.T) {
	t.Parallel()
	expired := func(t *testing.T, db *sqlite.DB) bool {
		t.Helper()
		held, err := db.Held(t.Context())
		if err != nil || len(held) != 1 {
			t.Fatalf("Held: %v, %v", held, err)
		}
		return held[0].Expired
	}
	for name, by := range map[string]time.Duration{"forward": 5 * time.Hour, "backward": -5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &clock{wall: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), uptime: time.Hour, boot: "one"}
			path := filepath.Join(t.TempDir(), "slipway.db")
			db, beside := open(t, path, c.options()), open(t, path, c.options())
			enqueue(t, db, 1)
			a, err := db.Claim(t.Context(), store.ClaimOptions{Lease: time.Minute, Slots: 1})
			if err != nil {
				t.Fatal(err)
			}
			c.pass(50 * time.Second)
			c.set(by)
			for _, db := range []*sqlite.DB{db, beside} { // both see it, and the leases are moved once
				if expired(t, db) {
					t.Errorf("the lease has passed because the clock was set by %s", by)
				}
			}
			c.pass(20 * time.Second)
			if !expired(t, db) {
				t.Error("the lease has not passed after 70 s")
			}
			c.set(by)
			if _, err := db.Renew(t.Context(), time.Minute, []store.Key{a.Key}); err != nil { // before anybody looked
				t.Fatal(err)
			}
			if expired(t, db) {
				t.Error("a lease that was just renewed has passed")
			}
			c.pass(61 * time.Second)
			if !expired(t, beside) {
				t.Error("the renewed lease has not passed after 61 s")
			}
		})
	}
	t.Run("while the machine was off", func(t *testing.T) {
		t.Parallel()
		c := &clock{wall: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), uptime: 1000 * time.Hour, boot: "one"}
		path := filepath.Join(t.TempDir(), "slipway.db")
		db := open(t, path, c.options())
		enqueue(t, db, 1)
		if _, err := db.Claim(t.Context(), store.ClaimOptions{Lease: time.Minute, Slots: 1}); err != nil {
			t.Fatal(err)
		}
		c.set(time.Hour)
		c.boot, c.uptime = "two", time.Minute
		if !expired(t, open(t, path, c.options())) {
			t.Error("a lease of before the restart of the machine has not passed an hour later")
		}
	})
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "slipway.db")
	if err := open(t, path, sqlite.Options{}).Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.ExecContext(t.Context(), "PRAGMA user_version = 1000"); err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), path, sqlite.Options{Now: time.Now})
	if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "newer") || errs.HintOf(err) == "" {
		t.Errorf("Open of a newer database: %v", err)
	}
}

func TestNotADatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "slipway.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), path, sqlite.Options{Now: time.Now}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("Open: %v, want errs.Corrupt", err)
	}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := open(t, filepath.Join(dir, "slipway.db"), sqlite.Options{})
	enqueue(t, db, 3)
	copied := filepath.Join(dir, "copy's.db")
	if err := db.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if err := db.Backup(t.Context(), copied); !errors.Is(err, errs.Exists) {
		t.Errorf("Backup over a file: %v, want errs.Exists", err)
	}
	runs, err := open(t, copied, sqlite.Options{}).Runs(t.Context(), store.RunFilter{})
	if err != nil || len(runs) != 3 {
		t.Errorf("the copy has %d runs: %v", len(runs), err)
	}
}

func TestFileIsPrivate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "slipway.db")
	open(t, path, sqlite.Options{})
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %o", name, mode)
		}
	}
}

// TestFullDisk gives the database a file system with little room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "slipway.db")
	db := open(t, path, sqlite.Options{})
	app, err := db.CreateApp(t.Context(), store.App{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 1<<20)
	if err := db.SetVariable(t.Context(), app.ID, "BIG", big); !errors.Is(err, errs.Limit) {
		t.Errorf("SetVariable on a full disk: %v, want errs.Limit", err)
	}
	if _, err := db.App(t.Context(), "shop"); err != nil {
		t.Errorf("App after that: %v", err)
	}
}

// TestQueries prepares every query, so that none waits to be wrong, and looks for each in the code.
func TestQueries(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "slipway.db"), sqlite.Options{})
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	code := ""
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code += string(text)
	}
	for name, query := range db.Queries() {
		if err := db.Prepare(t.Context(), query); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(code, `"`+strings.TrimSuffix(name, "ByStatus")+`"`) {
			t.Errorf("nothing uses the query %s", name)
		}
	}
}
