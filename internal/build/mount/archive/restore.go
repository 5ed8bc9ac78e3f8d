package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
)

// Restoring says what to restore.
type Restoring struct {
	Key oci.Digest
	// ID is what the user calls the mount.
	ID string
	// Dir is an empty folder for the files. Beside it is noted what was restored.
	Dir string
	// MaxBytes is the most that the files may add up to. Default: no limit.
	MaxBytes int64
}

// restoreTries is how often somebody who saves may remove packs of what is being restored.
const restoreTries = 3

// Restore fills an empty folder with what a place keeps of a mount. If it keeps nothing the error is of kind
// errs.NotFound. After an error the folder is empty again.
func Restore(ctx context.Context, p Place, r Restoring) error {
	for n := 1; ; n++ {
		manifest, err := p.Load(ctx, r.Key)
		if err == nil {
			err = r.restore(ctx, p, manifest)
			if errors.Is(err, errs.NotFound) {
				err = fmt.Errorf("%w (%s): %w", errPackGone, err.Error(), errs.Corrupt) // it keeps something, if not all of it
			}
		}
		if err == nil {
			return nil
		}
		err = errors.Join(err, clearFolder(r.Dir))
		if n == restoreTries || !errors.Is(err, errPackGone) {
			return fmt.Errorf("restore cache mount %s from %s: %w", r.ID, p, err)
		}
	}
}

var errPackGone = errors.New("a pack of it is missing")

func (r *Restoring) restore(ctx context.Context, p Place, manifest []byte) error {
	packs, err := decode(manifest)
	if err != nil {
		return err
	}
	if err := r.extract(ctx, p, packs); err != nil {
		return err
	}
	sum, _, err := fingerprint(ctx, r.Dir)
	if err != nil {
		return err
	}
	n := readNote(r.Dir)
	n[p.String()] = sum
	return n.write(r.Dir)
}

// extract unpacks all packs.
func (r *Restoring) extract(ctx context.Context, p Place, packs []oci.Descriptor) error {
	in, out := io.Pipe()
	merged := make(chan struct{})
	go func() {
		defer close(merged)
		out.CloseWithError(merge(ctx, p, packs, out))
	}()
	_, err := layer.Extract(ctx, r.Dir, in, layer.ApplyOptions{MaxBytes: r.MaxBytes, MaxEntries: maxEntries})
	in.CloseWithError(errs.Canceled) // ends the merging, should it not have ended
	<-merged
	return err
}

// merge writes the files of all packs as one tar, so that hard links find their files, and one look at it decides over
// all names.
func merge(ctx context.Context, p Place, packs []oci.Descriptor, to io.Writer) error {
	w := tar.NewWriter(to)
	for _, desc := range packs {
		if err := add(ctx, p, desc, w); err != nil {
			return fmt.Errorf("pack %s: %w", desc.Digest, err)
		}
	}
	return w.Close()
}

func add(ctx context.Context, p Place, desc oci.Descriptor, w *tar.Writer) (err error) {
	blob, err := p.Open(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	plain, err := layer.Decompress(blob)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return corrupt(err)
		}
		if err := copyEntry(w, h, r); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, blob) // to its verified end
	return err
}

// corrupt marks what archive/tar finds wrong. Errors of the stream have their own kinds.
func corrupt(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.Mark(err, errs.Corrupt)
	}
	return err
}

// copyEntry passes on a file, a folder or a link. The folder itself is not for the archive to describe.
func copyEntry(w *tar.Writer, h *tar.Header, content io.Reader) error {
	if path.Join("/", h.Name) == "/" {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
	default:
		return fmt.Errorf("a file of type %q: only files, folders and links are restored: %w", h.Typeflag, errs.Corrupt)
	}
	h.Format = tar.FormatUnknown // whichever the header needs
	if err := w.WriteHeader(h); err != nil {
		return errs.Mark(err, errs.Corrupt)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(w, content)
	return corrupt(err)
}
