// Package vault seals secrets: AES-256-GCM, a fresh key for each value, itself sealed with the key of a key file.
//
//	v, err := vault.Open(path)
//	sealed, err := v.Seal(value, vault.Label(scope, name, version))
//	value, err := v.Unseal(sealed, vault.Label(scope, name, version))
//
// What is sealed is bound to its label: put into another secret's row, or taken for another version, it does not open. A
// key file holds one key a line, the newest first; the others only open. It is as precious as the secrets: who has it and
// the database has them all, and without it they are gone. Package vault stores nothing but the key file.
package vault

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"slipway/internal/errs"
)

// Vault seals with the first of its keys and opens with any.
type Vault struct {
	path string
	keys []key
}

type key struct {
	id     [idBytes]byte
	secret []byte
}

const (
	// form is the first byte of everything sealed.
	form      = 1
	keyBytes  = 32
	idBytes   = 8
	nonceSize = 12
	tagSize   = 16
	// wrapped is a sealed data key.
	wrapped  = nonceSize + keyBytes + tagSize
	overhead = 1 + idBytes + wrapped + nonceSize + tagSize
)

// header says what a key file is, to whoever finds it.
const header = "# The key of slipway's secrets, the newest first. Keep a copy, apart from copies of the database.\n"

// Open reads the key file at path, and makes one when there is none. A file that others may read is refused.
func Open(path string) (*Vault, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := add(path, nil); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make a key file: %w", err)
		}
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key file: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the key file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		err := fmt.Errorf("the key file %s may be read by others (mode %o): %w", path, mode, errs.Denied)
		return nil, errs.Hint(err, "chmod 600 "+path)
	}
	v := &Vault{path: path}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		secret, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(secret) != keyBytes {
			return nil, fmt.Errorf("the key file %s has a line that is no key: %w", path, errs.Corrupt)
		}
		v.keys = append(v.keys, newKey(secret))
	}
	if len(v.keys) == 0 {
		return nil, fmt.Errorf("the key file %s has no key: %w", path, errs.Corrupt)
	}
	return v, nil
}

func newKey(secret []byte) key {
	k := key{secret: secret}
	sum := sha256.Sum256(append([]byte("slipway key id\x00"), secret...))
	copy(k.id[:], sum[:])
	return k
}

// add writes a key file with a new key before the old ones. Without old ones the file must not be there.
func add(path string, old []key) error {
	secret := make([]byte, keyBytes)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	text := header
	for _, k := range append([]key{{secret: secret}}, old...) {
		text += base64.StdEncoding.EncodeToString(k.secret) + "\n"
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		if len(old) == 0 {
			err = os.Link(f.Name(), path) // of two servers that start on a new home, one makes the key
		} else {
			err = os.Rename(f.Name(), path)
		}
	}
	if removed := os.Remove(f.Name()); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir makes sure that a file's name is on the disk, too.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Rotate adds a new key to the key file; from then on it is the one that seals. What was sealed before still opens; see
// Stale.
func (v *Vault) Rotate() error {
	if err := add(v.path, v.keys); err != nil {
		return fmt.Errorf("add a key: %w", err)
	}
	next, err := Open(v.path)
	if err != nil {
		return err
	}
	v.keys = next.keys
	return nil
}

// Label names what is sealed. No two lists of parts give the same label.
func Label(scope, name string, version int64) []byte {
	var b []byte
	for _, part := range []string{"slipway secret", scope, name, strconv.FormatInt(version, 10)} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// Seal seals a value under a label.
func (v *Vault) Seal(value, label []byte) ([]byte, error) {
	data := make([]byte, keyBytes)
	if _, err := rand.Read(data); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	k := v.keys[0]
	out := append([]byte{form}, k.id[:]...)
	out, err := lock(out, k.secret, data, label)
	if err == nil {
		out, err = lock(out, data, value, label)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out, nil
}

// Unseal opens what Seal sealed under the same label. Anything else is an errs.Corrupt.
func (v *Vault) Unseal(sealed, label []byte) ([]byte, error) {
	if len(sealed) < overhead || sealed[0] != form {
		return nil, fmt.Errorf("unseal: not sealed by slipway, or by a newer one: %w", errs.Corrupt)
	}
	id, rest := sealed[1:1+idBytes], sealed[1+idBytes:]
	for _, k := range v.keys {
		if !bytes.Equal(k.id[:], id) {
			continue
		}
		data, err := unlock(k.secret, rest[:wrapped], label)
		if err != nil {
			return nil, fmt.Errorf("unseal: %w", err)
		}
		value, err := unlock(data, rest[wrapped:], label)
		if err != nil {
			return nil, fmt.Errorf("unseal: %w", err)
		}
		return value, nil
	}
	err := fmt.Errorf("unseal: the key %x is not in the key file: %w", id, errs.Corrupt)
	return nil, errs.Hint(err, "put the key file that belongs to this database in its place: "+v.path)
}

// Stale says whether something was sealed with a key other than the newest: then unseal it and seal it again.
func (v *Vault) Stale(sealed []byte) bool {
	return len(sealed) < overhead || !bytes.Equal(sealed[1:1+idBytes], v.keys[0].id[:])
}

// lock appends a nonce and the sealed value.
func lock(to, secret, value, label []byte) ([]byte, error) {
	aead, err := newAEAD(secret)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return aead.Seal(append(to, nonce...), nonce, value, label), nil
}

func unlock(secret, sealed, label []byte) ([]byte, error) {
	aead, err := newAEAD(secret)
	if err != nil {
		return nil, err
	}
	value, err := aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], label)
	if err != nil {
		return nil, fmt.Errorf("it was changed, or belongs elsewhere: %w", errs.Corrupt)
	}
	return value, nil
}

func newAEAD(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// MAC authenticates data under the newest key, for passwords that are made and not kept.
func (v *Vault) MAC(data []byte) []byte { return v.keys[0].mac(data) }

// CheckMAC says whether mac is the MAC of data under any of the keys.
func (v *Vault) CheckMAC(data, mac []byte) bool {
	ok := false
	for _, k := range v.keys {
		ok = hmac.Equal(mac, k.mac(data)) || ok
	}
	return ok
}

// mac keeps apart what the key seals and what it authenticates.
func (k key) mac(data []byte) []byte {
	derived := hmac.New(sha256.New, k.secret)
	derived.Write([]byte("slipway mac key"))
	mac := hmac.New(sha256.New, derived.Sum(nil))
	mac.Write(data)
	return mac.Sum(nil)
}
