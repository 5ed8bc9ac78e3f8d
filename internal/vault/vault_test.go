package vault_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/vault"
)

func open(t *testing.T, path string) *vault.Vault {
	t.Helper()
	v, err := vault.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func seal(t *testing.T, v *vault.Vault, value string) []byte {
	t.Helper()
	sealed, err := v.Seal([]byte(value), []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSeal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	v := open(t, path)
	for _, value := range []string{"", "hunter2", string(bytes.Repeat([]byte{0}, 1<<16))} {
		sealed, again := seal(t, v, value), seal(t, v, value)
		if bytes.Equal(sealed, again) {
			t.Error("two seals of a value are equal")
		}
		if value != "" && bytes.Contains(sealed, []byte(value)) {
			t.Error("the value is in what is sealed")
		}
		got, err := open(t, path).Unseal(sealed, []byte("a"))
		if err != nil || string(got) != value {
			t.Errorf("Unseal returned %.20q, %v", got, err)
		}
	}
}

func TestUnsealRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := open(t, filepath.Join(dir, "key"))
	sealed := seal(t, v, "hunter2")
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if got, err := v.Unseal(changed, []byte("a")); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("with byte %d changed Unseal returned %q, %v", i, got, err)
		}
	}
	for n := range sealed {
		if _, err := v.Unseal(sealed[:n], []byte("a")); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("of %d bytes Unseal returned %v", n, err)
		}
	}
	if _, err := v.Unseal(sealed, []byte("b")); !errors.Is(err, errs.Corrupt) {
		t.Errorf("under another label: %v", err)
	}
	_, err := open(t, filepath.Join(dir, "other")).Unseal(sealed, []byte("a"))
	if !errors.Is(err, errs.Corrupt) || errs.HintOf(err) == "" {
		t.Errorf("with another key file: %v", err)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, label := range [][]byte{
		vault.Label("a", "b", 1), vault.Label("ab", "", 1), vault.Label("", "ab", 1), vault.Label("a", "b1", 0), vault.Label("a", "b", 11),
	} {
		if seen[string(label)] {
			t.Errorf("label %q is there twice", label)
		}
		seen[string(label)] = true
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	v := open(t, path)
	old := seal(t, v, "hunter2")
	if v.Stale(old) {
		t.Error("what was just sealed is stale")
	}
	if err := v.Rotate(); err != nil {
		t.Fatal(err)
	}
	if !v.Stale(old) || v.Stale(seal(t, v, "x")) || !v.Stale(nil) {
		t.Error("Stale does not tell the old key from the new")
	}
	for _, v := range []*vault.Vault{v, open(t, path)} {
		if got, err := v.Unseal(old, []byte("a")); err != nil || string(got) != "hunter2" {
			t.Errorf("after a rotation Unseal returned %q, %v", got, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
		kind error
	}{
		"open to others": {"# \n", 0o640, errs.Denied},
		"empty":          {"# nothing\n\n", 0o600, errs.Corrupt},
		"no key":         {"hunter2\n", 0o600, errs.Corrupt},
		"a short key":    {"aHVudGVyMg==\n", 0o600, errs.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := vault.Open(path); !errors.Is(err, tt.kind) {
				t.Errorf("Open: %v, want %v", err, tt.kind)
			}
		})
	}
	if _, err := vault.Open(filepath.Join(t.TempDir(), "none", "key")); err == nil {
		t.Error("Open in a folder that does not exist succeeded")
	}
}

// TestFirstStart has several make the key file at once: they end with one key.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	var group sync.WaitGroup
	sealed := make(chan []byte, 8)
	for range cap(sealed) {
		group.Go(func() {
			v, err := vault.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			s, err := v.Seal([]byte("x"), nil)
			if err != nil {
				t.Error(err)
			}
			sealed <- s
		})
	}
	group.Wait()
	close(sealed)
	v := open(t, path)
	for s := range sealed {
		if _, err := v.Unseal(s, nil); err != nil {
			t.Errorf("sealed with a key that is not in the file: %v", err)
		}
	}
}

func TestMAC(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	v := open(t, path)
	mac := v.MAC([]byte("data"))
	if !v.CheckMAC([]byte("data"), mac) || v.CheckMAC([]byte("date"), mac) || v.CheckMAC([]byte("data"), nil) {
		t.Error("CheckMAC does not tell what was authenticated from what was not")
	}
	if err := v.Rotate(); err != nil {
		t.Fatal(err)
	}
	if !v.CheckMAC([]byte("data"), mac) || bytes.Equal(mac, v.MAC([]byte("data"))) {
		t.Error("after a rotation MACs are not those of the new key beside the old")
	}
	if open(t, filepath.Join(t.TempDir(), "other")).CheckMAC([]byte("data"), mac) {
		t.Error("another key file accepts the MAC")
	}
}
