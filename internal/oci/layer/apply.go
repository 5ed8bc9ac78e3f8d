package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// ApplyOptions change how a tar is unpacked. The zero value is good.
type ApplyOptions struct {
	// MaxBytes is the most that the content of all files may add up to, holes included. Default: no limit.
	MaxBytes int64
	// MaxEntries is the most entries the tar may have. Default: no limit.
	MaxEntries int
	// Below returns the file that the layers below have at a path, with its content if it is a regular file; an error
	// of kind errs.NotFound if there is none. With it, directories that the tar does not list are made like those
	// below, and hard links to files below become copies of them. Default: see Applied.
	Below func(path string) (Entry, io.ReadCloser, error)
	// Index asks for Applied.Index. Default: none is made.
	Index bool
	// plain: an archive that is no layer, where .wh. has no meaning.
	plain bool
}

// Applied says what was unpacked.
type Applied struct {
	// DiffID is the digest of the tar.
	DiffID oci.Digest
	// Bytes is the length of the tar.
	Bytes int64
	// Entries is the number of files the tar listed, whiteouts included.
	Entries int
	// Implicit are directories that the tar did not list though it has files in them. Without ApplyOptions.Below they
	// belong to root and have mode 0755, which may differ from the directory below.
	Implicit []string
	// Foreign are hard links to files that are not in this layer. Without ApplyOptions.Below they are missing.
	Foreign []string
	// Skipped are extended attributes that the file system or missing rights did not allow, as "PATH: NAME".
	Skipped []string
	// Index holds the entries if ApplyOptions.Index asked for it.
	Index *Index
}

// Dependent says whether what was unpacked depends on the layers below, so that it may be used on top of those only.
func (a *Applied) Dependent() bool { return len(a.Implicit) > 0 || len(a.Foreign) > 0 }

// Apply unpacks a plain tar, a layer that a stranger made, into dir, an empty directory, in the form of an overlay's
// upper directory: .wh.NAME becomes a whiteout, .wh..wh..opq an opaque directory. It reads r to its end, so that the
// digest is that of all bytes; the caller compares it with the diffID that the image's config promises and throws the
// directory away if they differ.
//
// Nothing is ever made outside dir, whatever the tar says. Absolute names count from dir. A name that leads out of it
// by way of ".." is an error, of kind errs.Corrupt as all that is wrong with the tar. Symbolic links that the layer
// itself has are followed inside dir where a name goes through them, as containerd does. Of several entries with the
// same name the last one counts. An opaque marker at the top of the layer is noted, but the kernel's overlay does not
// obey it. Long runs of zeros become holes. No memory is allocated by what a header claims.
//
// Beyond a limit of opts the error is of kind errs.Limit. When Apply fails dir is left as it is.
func Apply(ctx context.Context, dir string, r io.Reader, opts ApplyOptions) (Applied, error) {
	res, err := apply(ctx, dir, r, opts)
	if err != nil {
		return Applied{}, fmt.Errorf("apply layer: %w", full(err))
	}
	return res, nil
}

// Extract unpacks an archive that is no image layer, as ADD does: compressed or not, and with names that begin with
// .wh. refused, and with ".." that leads out of it leading nowhere. For the rest it is Apply; DiffID and Bytes are those
// of the plain tar.
func Extract(ctx context.Context, dir string, r io.Reader, opts ApplyOptions) (_ Applied, err error) {
	plain, err := Decompress(r)
	if err != nil {
		return Applied{}, fmt.Errorf("extract: %w", err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	opts.plain = true
	res, err := apply(ctx, dir, plain, opts)
	if err != nil {
		return Applied{}, fmt.Errorf("extract: %w", full(err))
	}
	return res, nil
}

func apply(ctx context.Context, dir string, r io.Reader, opts ApplyOptions) (res Applied, err error) {
	t, err := newTree(ctx, dir)
	if err != nil {
		return res, err
	}
	defer t.abandon()
	t.below = opts.Below
	in := readAhead(ctx, r)
	u := &unpacker{tree: t, opts: opts, tar: tar.NewReader(in)}
	err = u.all()
	if err == nil {
		_, err = io.Copy(io.Discard, in) // what follows the end of the tar counts for the digest
	}
	if err != nil {
		if broken := in.broken(); broken != nil { // what the tar lacks then is no fault of its own
			err = broken
		}
		t.fail(err)
	}
	in.stop()
	// A failed worker stopped the reading, so its error comes first.
	if serr := t.stop(); serr != nil {
		return res, serr
	}
	if res.Implicit, err = t.finish(); err != nil {
		return res, err
	}
	res.DiffID, res.Bytes = in.sum()
	res.Entries, res.Foreign, res.Skipped = t.entries, u.foreign, t.skipped
	if opts.Index {
		res.Index = NewIndex(t.collect())
	}
	return res, nil
}

// unpacker turns the entries of a tar into files of a tree.
type unpacker struct {
	*tree
	opts    ApplyOptions
	tar     *tar.Reader
	bytes   int64
	foreign []string
}

func (u *unpacker) all() error {
	for {
		hdr, err := u.tar.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return corrupt(err)
		}
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		if err := u.entry(hdr); err != nil {
			return fmt.Errorf("%q: %w", hdr.Name, err)
		}
	}
}

// corrupt marks what archive/tar finds wrong with the bytes. Errors of the stream have their own kinds.
func corrupt(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.Mark(err, errs.Corrupt)
	}
	return err
}

// limit counts an entry and its content, before anything is made of it.
func (u *unpacker) limit(e *Entry) error {
	if u.opts.MaxEntries > 0 && u.entries >= u.opts.MaxEntries {
		return errs.Mark(fmt.Errorf("more than %d entries", u.opts.MaxEntries), errs.Limit)
	}
	if u.opts.MaxBytes > 0 && e.Size > u.opts.MaxBytes-u.bytes {
		return errs.Mark(fmt.Errorf("content is more than %d bytes", u.opts.MaxBytes), errs.Limit)
	}
	u.bytes += e.Size
	return nil
}

func (u *unpacker) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if u.opts.plain { // as in a root of its own, ".." at the top leads nowhere
		hdr.Name = path.Join("/", hdr.Name)
		if hdr.Typeflag == tar.TypeLink {
			hdr.Linkname = path.Join("/", hdr.Linkname)
		}
	}
	e, err := headerEntry(hdr)
	if err != nil {
		return err
	}
	if err := u.limit(&e); err != nil {
		return err
	}
	if skip, err := u.marker(&e); skip || err != nil {
		return err
	}
	name := e.Path
	err = u.add(&e, func(dir *node, base string, e *Entry) error {
		if !e.IsRegular() || e.Size == 0 {
			return u.put(dir, base, e, task{})
		}
		return corrupt(u.read(dir, base, e, u.tar))
	})
	if e.Hard && errors.Is(err, errs.NotFound) {
		return u.borrow(name, &e)
	}
	return err
}

// marker obeys the names by which a layer says that something is deleted. skip says that there is nothing left to do.
func (u *unpacker) marker(e *Entry) (skip bool, err error) {
	dir, base := splitPath(e.Path)
	hidden, isMarker := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !isMarker:
		return false, nil
	case u.opts.plain:
		return true, errs.Mark(fmt.Errorf("names that begin with %s mean deletions in an image layer", whiteoutPrefix), errs.Invalid)
	case base == opaqueName:
		n, err := u.directory(dir)
		if err != nil {
			return true, err
		}
		n.entry.Opaque = true
		return true, nil
	case strings.HasPrefix(base, reservedPrefix):
		return true, nil // AUFS's bookkeeping
	case hidden == "" || hidden == "." || hidden == "..":
		return true, errs.Mark(errors.New("whiteout of no name"), errs.Corrupt)
	}
	*e = Entry{Path: path.Join(dir, hidden), Whiteout: true}
	return false, nil
}

// directory returns the node of a directory of the layer.
func (u *unpacker) directory(name string) (*node, error) {
	links := 0
	n, err := u.walk(u.root, name, &links, true)
	if err == nil && n.entry == nil {
		n.entry = &Entry{Path: ".", Mode: fs.ModeDir | 0o755}
	}
	return n, err
}

// borrow makes a copy of the file below that a hard link names, as the overlay does when such a file is changed.
func (u *unpacker) borrow(name string, e *Entry) error {
	u.foreign = append(u.foreign, name)
	if u.opts.Below == nil {
		return nil
	}
	below, content, err := u.opts.Below(e.Link)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", e.Link, err)
	}
	if content != nil {
		defer content.Close() // only read
	}
	below.Path, below.Hard, below.Opaque = name, false, false
	if below.Whiteout || below.IsDir() || below.IsRegular() && below.Size > 0 && content == nil {
		return errs.Mark(fmt.Errorf("hard link to %s, which is no file", e.Link), errs.Corrupt)
	}
	u.entries--
	return u.add(&below, func(dir *node, base string, e *Entry) error {
		if !e.IsRegular() || e.Size == 0 {
			return u.put(dir, base, e, task{})
		}
		return u.read(dir, base, e, content)
	})
}

// headerEntry turns a header of a tar into an entry, and refuses names that lead out of the layer.
func headerEntry(hdr *tar.Header) (Entry, error) {
	name, err := insideName(hdr.Name)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Path: name, Mode: FileMode(uint32(hdr.Mode) & 0o7777), UID: hdr.Uid, GID: hdr.Gid, ModTime: hdr.ModTime,
		Major: uint32(hdr.Devmajor), Minor: uint32(hdr.Devminor),
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Size = hdr.Size
	case tar.TypeLink:
		e.Hard = true
		if e.Link, err = insideName(hdr.Linkname); err != nil {
			return Entry{}, fmt.Errorf("hard link: %w", err)
		}
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
		e.Link = hdr.Linkname
	case tar.TypeFifo:
		e.Mode |= fs.ModeNamedPipe
	case tar.TypeBlock:
		e.Mode |= fs.ModeDevice
	case tar.TypeChar:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		e.Whiteout = e.Major == 0 && e.Minor == 0 // there is no such device, and the overlay takes it for a whiteout
	default:
		return Entry{}, errs.Mark(fmt.Errorf("unknown type %q", hdr.Typeflag), errs.Corrupt)
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrPAX); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = value
		}
	}
	return e, nil
}

// insideName returns a name of the tar as a clean relative path.
func insideName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case name == "":
		return "", errs.Mark(errors.New("empty name"), errs.Corrupt)
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", errs.Mark(fmt.Errorf("%q leads out of the layer", name), errs.Corrupt)
	case strings.IndexByte(name, 0) >= 0:
		return "", errs.Mark(errors.New("name contains a NUL"), errs.Corrupt)
	case len(clean) > maxPath:
		return "", errs.Mark(fmt.Errorf("name has more than %d bytes", maxPath), errs.Corrupt)
	}
	return clean, nil
}

// maxPath is the longest path that the kernel takes (PATH_MAX with its NUL).
const maxPath = 4095
