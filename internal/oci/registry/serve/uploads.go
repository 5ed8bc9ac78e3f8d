package serve

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
)

const (
	copyBufferBytes = 256 << 10
	uploadsFolder   = "_uploads"
)

type uploadKey struct{ repository, id string }

func (k uploadKey) path() string { return repositoryPath(k.repository, uploadsFolder, k.id) }

func (k uploadKey) location() string { return "/v2/" + k.repository + "/blobs/uploads/" + k.id }

// upload is what is known of one upload under way. Its bytes are in its file; this is lost with the process and made
// again from the file.
type upload struct {
	key  uploadKey
	busy chan struct{} // holds a token while a request works on the upload
	size int64
	hash hash.Hash // sha256 of the first size bytes, taken as they arrive
	gone bool
}

type uploads struct {
	mu   sync.Mutex
	open map[uploadKey]*upload
}

func (us *uploads) get(key uploadKey) *upload {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := us.open[key]
	if u == nil {
		u = &upload{key: key, busy: make(chan struct{}, 1)}
		us.open[key] = u
	}
	return u
}

func (us *uploads) forget(u *upload) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u.gone = true
	delete(us.open, u.key)
}

// acquire returns the upload for the caller alone, until release. A request whose client is gone may hold it for as long
// as its connection takes to die; the next one waits for that.
func (r *Registry) acquire(ctx context.Context, t target) (*upload, error) {
	unknown := answer(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
	if !validUploadID(t.reference) {
		return nil, unknown
	}
	u := r.uploads.get(uploadKey{t.repository, t.reference})
	select {
	case u.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for upload: %w", context.Cause(ctx))
	}
	if u.hash == nil && !u.gone {
		if err := r.reopen(u); err != nil {
			r.discard(u)
			if missing(err) {
				return nil, unknown
			}
			return nil, fmt.Errorf("resume upload: %w", err)
		}
	}
	if u.gone {
		release(u)
		return nil, unknown
	}
	return u, nil
}

func release(u *upload) { <-u.busy }

// discard forgets an upload that the caller has acquired and whose file is gone or was never there.
func (r *Registry) discard(u *upload) {
	r.uploads.forget(u)
	release(u)
}

func validUploadID(s string) bool {
	return len(s) == 26 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// reopen takes up an upload that an earlier process began.
func (r *Registry) reopen(u *upload) error {
	file, err := r.files.root.Open(u.key.path())
	if err != nil {
		return err
	}
	defer file.Close()
	h := sha256.New()
	if u.size, err = io.Copy(h, file); err != nil {
		return err
	}
	u.hash = h
	return nil
}

func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, t target) error {
	query := req.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		d, err := parseDigest(mount)
		if err != nil {
			return err
		}
		ok, err := r.mount(req, t.repository, query.Get("from"), d)
		if err != nil {
			return fmt.Errorf("mount %s: %w", d, err)
		}
		if ok {
			created(w, blobLocation(t.repository, d), d)
			return nil
		}
	}
	key := uploadKey{t.repository, rand.Text()}
	file, err := r.files.create(key.path())
	if err != nil {
		return fmt.Errorf("start upload: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("start upload: %w", err)
	}
	if query.Get("digest") != "" {
		t.reference = key.id
		return r.finishUpload(w, req, t)
	}
	return accepted(w, &upload{key: key}, http.StatusAccepted)
}

func blobLocation(repository string, d oci.Digest) string {
	return "/v2/" + repository + "/blobs/" + d.String()
}

// accepted tells where the upload goes on, and from which byte.
func accepted(w http.ResponseWriter, u *upload, status int) error {
	describeUpload(w, u)
	w.WriteHeader(status)
	return nil
}

func describeUpload(w http.ResponseWriter, u *upload) {
	w.Header().Set("Location", u.key.location())
	w.Header().Set("Docker-Upload-UUID", u.key.id)
	// The protocol has no way to write an empty range; "0-0" is what registries have always said for it.
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, u.size-1)))
	w.Header().Set("Content-Length", "0")
}

func (r *Registry) uploadStatus(w http.ResponseWriter, req *http.Request, t target) error {
	u, err := r.acquire(req.Context(), t)
	if err != nil {
		return err
	}
	defer release(u)
	describeUpload(w, u)
	w.Header().Del("Content-Length")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *Registry) patchUpload(w http.ResponseWriter, req *http.Request, t target) error {
	u, err := r.acquire(req.Context(), t)
	if err != nil {
		return err
	}
	defer release(u)
	if err := r.receive(w, req, u); err != nil {
		return err
	}
	return accepted(w, u, http.StatusAccepted)
}

// receive appends the request's body to the upload. What has arrived stays, also when the connection breaks: the client
// asks how far it got and goes on from there.
func (r *Registry) receive(w http.ResponseWriter, req *http.Request, u *upload) (err error) {
	if err := checkRange(req, u.size); err != nil {
		describeUpload(w, u)
		return err
	}
	file, err := r.files.openUpload(u.key)
	if err != nil {
		return fmt.Errorf("receive upload: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffer, ok := r.buffers.Get().(*[copyBufferBytes]byte)
	if !ok {
		buffer = new([copyBufferBytes]byte)
	}
	defer r.buffers.Put(buffer)
	for {
		n, readErr := req.Body.Read(buffer[:])
		if _, err := file.WriteAt(buffer[:n], u.size); err != nil {
			return fmt.Errorf("receive upload: %w", errors.Join(err, file.Truncate(u.size)))
		}
		u.hash.Write(buffer[:n])
		u.size += int64(n)
		switch {
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil:
			return answer(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "upload interrupted")
		}
	}
}

// checkRange holds a chunk's Content-Range, if it has one, against what has arrived: chunks come in order.
func checkRange(req *http.Request, size int64) error {
	header := req.Header.Get("Content-Range")
	if header == "" {
		return nil
	}
	first, last, ok := strings.Cut(strings.TrimPrefix(header, "bytes "), "-")
	last, _, _ = strings.Cut(last, "/")
	start, err := strconv.ParseInt(first, 10, 64)
	end, endErr := strconv.ParseInt(last, 10, 64)
	switch {
	case !ok || err != nil || endErr != nil || end < start || req.ContentLength >= 0 && end-start+1 != req.ContentLength:
		return answer(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "malformed Content-Range")
	case start != size:
		return answer(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "chunk out of order")
	}
	return nil
}

func (r *Registry) finishUpload(w http.ResponseWriter, req *http.Request, t target) error {
	d, err := parseDigest(req.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	u, err := r.acquire(req.Context(), t)
	if err != nil {
		return err
	}
	defer release(u)
	if err := r.receive(w, req, u); err != nil {
		return err
	}
	got, err := r.uploadDigest(u, d.Algorithm())
	if err != nil {
		return fmt.Errorf("verify upload: %w", err)
	}
	if got != d {
		if err := r.abandon(u); err != nil {
			return fmt.Errorf("cancel upload: %w", err)
		}
		return invalidDigest(fmt.Sprintf("content has digest %s, not %s", got, d))
	}
	if err := r.commit(u, d); err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	created(w, blobLocation(t.repository, d), d)
	return nil
}

// uploadDigest is at hand for sha256; another algorithm reads the file once more.
func (r *Registry) uploadDigest(u *upload, algorithm digest.Algorithm) (oci.Digest, error) {
	if algorithm == digest.SHA256 {
		return digest.NewDigest(algorithm, u.hash), nil
	}
	file, err := r.files.root.Open(u.key.path())
	if err != nil {
		return "", err
	}
	defer file.Close()
	return algorithm.FromReader(file)
}

// commit gives the upload's file its name. A blob that is there already is replaced by the same bytes.
func (r *Registry) commit(u *upload, d oci.Digest) error {
	if r.files.sync {
		file, err := r.files.openUpload(u.key)
		if err != nil {
			return err
		}
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			return err
		}
	}
	r.names.RLock()
	defer r.names.RUnlock()
	if err := r.files.rename(u.key.path(), blobPath(d)); err != nil {
		return err
	}
	r.uploads.forget(u)
	return r.files.mark(linkPath(u.key.repository, d))
}

func (r *Registry) cancelUpload(w http.ResponseWriter, req *http.Request, t target) error {
	u, err := r.acquire(req.Context(), t)
	if err != nil {
		return err
	}
	defer release(u)
	if err := r.abandon(u); err != nil {
		return fmt.Errorf("cancel upload: %w", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *Registry) abandon(u *upload) error {
	r.uploads.forget(u)
	return r.files.remove(u.key.path())
}

// purge removes the uploads that nobody has written to for UploadTTL.
func (r *Registry) purge() error {
	cutoff := time.Now().Add(-r.opts.UploadTTL)
	return r.files.walk(uploadsFolder, func(repository string, entry fs.DirEntry) error {
		info, err := entry.Info()
		if missing(err) || err == nil && info.ModTime().After(cutoff) {
			return nil
		}
		if err != nil {
			return err
		}
		u := r.uploads.get(uploadKey{repository, path.Base(entry.Name())})
		select {
		case u.busy <- struct{}{}:
			defer release(u)
			return r.abandon(u)
		default:
			return nil
		}
	})
}
