package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"slipway/internal/errs"
)

const (
	tarBlock = 512
	xattrPAX = "SCHILY.xattr."
	// The largest numbers of seven and of eleven octal digits, which is what the fields of a USTAR header hold.
	maxOctal7, maxOctal11 = 1<<21 - 1, 1<<33 - 1
)

// tarPadding is the number of zero bytes that follow n bytes of content.
func tarPadding(n int64) int64 { return -n & (tarBlock - 1) }

// appendEntry appends the tar headers of e to b. Content of e, if any, comes next.
func appendEntry(b []byte, e *Entry, epoch *time.Time) ([]byte, error) {
	if err := checkName(e.Path); err != nil {
		return b, err
	}
	hdr, err := tarHeader(e, epoch)
	if err != nil {
		return b, err
	}
	b, err = appendHeader(b, &hdr)
	if err != nil || !e.Opaque || e.Whiteout {
		return b, err
	}
	return appendHeader(b, markerHeader(path.Join(e.Path, opaqueName)))
}

// checkName refuses what would mean something else in a tar.
func checkName(name string) error {
	switch {
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("path %q contains a NUL: %w", name, errs.Invalid)
	case !inside(name):
		return fmt.Errorf("path %q is not clean and relative: %w", name, errs.Invalid)
	case strings.HasPrefix(path.Base(name), whiteoutPrefix):
		return errs.Hint(fmt.Errorf("%s: names that begin with %s mean deletions in an image layer: %w", name, whiteoutPrefix, errs.Invalid),
			"rename the file, or exclude it with .dockerignore")
	}
	return nil
}

// inside says whether name is clean, relative, and does not lead up.
func inside(name string) bool {
	return name != "" && path.Clean(name) == name && name[0] != '/' && name != ".." && !strings.HasPrefix(name, "../")
}

// markerHeader is the header of a whiteout. It has no time of its own; containerd gives it that of the build, which
// would make two builds of the same differ.
func markerHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)}
}

// tarHeader describes e as archive/tar does. Names of users and groups, access and change times are left out: they
// differ between machines.
func tarHeader(e *Entry, epoch *time.Time) (tar.Header, error) {
	if e.Whiteout {
		dir, base := path.Split(e.Path)
		return *markerHeader(dir + whiteoutPrefix + base), nil
	}
	hdr := tar.Header{
		Name: e.Path, Linkname: e.Link, Mode: int64(unixMode(e.Mode) &^ modeType), Uid: e.UID, Gid: e.GID,
		ModTime: clampTime(e.ModTime, epoch),
	}
	switch t := e.Mode.Type(); {
	case e.Size < 0:
		return hdr, fmt.Errorf("%s: negative size %d: %w", e.Path, e.Size, errs.Invalid)
	case e.Hard:
		hdr.Typeflag = tar.TypeLink
	case t == 0:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.Size
	case t == fs.ModeDir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, e.Path+"/"
	case t == fs.ModeSymlink:
		hdr.Typeflag = tar.TypeSymlink
	case t == fs.ModeDevice|fs.ModeCharDevice:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case t == fs.ModeDevice:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	case t == fs.ModeNamedPipe:
		hdr.Typeflag = tar.TypeFifo
	default:
		return hdr, fmt.Errorf("%s: a tar cannot hold a file of mode %s: %w", e.Path, e.Mode, errs.Invalid)
	}
	if len(e.Xattrs) > 0 && !e.Hard {
		hdr.PAXRecords = make(map[string]string, len(e.Xattrs))
		for name, value := range e.Xattrs {
			hdr.PAXRecords[xattrPAX+name] = value
		}
	}
	return hdr, nil
}

// appendHeader appends hdr to b as USTAR where that can express it, else with PAX records before it.
func appendHeader(b []byte, hdr *tar.Header) ([]byte, error) {
	if out, ok := appendUSTAR(b, hdr); ok {
		return out, nil
	}
	var buf bytes.Buffer
	hdr.Format = tar.FormatPAX
	if err := tar.NewWriter(&buf).WriteHeader(hdr); err != nil {
		return b, fmt.Errorf("%s: %w", hdr.Name, err)
	}
	return append(b, buf.Bytes()...), nil
}

// appendUSTAR appends the plain header that nearly every file fits into, or says that this one does not. It writes
// what archive/tar writes, without its allocations: that is 0.1 µs instead of 2 µs for each file.
func appendUSTAR(b []byte, hdr *tar.Header) ([]byte, bool) {
	prefix, name, ok := splitUSTAR(hdr.Name)
	if !ok || len(hdr.Linkname) > 100 || !ascii(hdr.Linkname) || len(hdr.PAXRecords) > 0 ||
		!fits(hdr.Size, maxOctal11) || !fits(hdr.ModTime.Unix(), maxOctal11) || !fits(int64(hdr.Uid), maxOctal7) ||
		!fits(int64(hdr.Gid), maxOctal7) || !fits(hdr.Devmajor, maxOctal7) || !fits(hdr.Devminor, maxOctal7) {
		return b, false
	}
	start := len(b)
	b = append(b, make([]byte, tarBlock)...)
	h := b[start:]
	copy(h[0:100], name)
	octal(h[100:107], hdr.Mode)
	octal(h[108:115], int64(hdr.Uid))
	octal(h[116:123], int64(hdr.Gid))
	octal(h[124:135], hdr.Size)
	octal(h[136:147], hdr.ModTime.Unix())
	copy(h[148:156], "        ") // the checksum counts itself as spaces
	h[156] = hdr.Typeflag
	copy(h[157:257], hdr.Linkname)
	copy(h[257:265], "ustar\x0000")
	octal(h[329:336], hdr.Devmajor)
	octal(h[337:344], hdr.Devminor)
	copy(h[345:500], prefix)
	var sum int64
	for _, c := range h {
		sum += int64(c)
	}
	octal(h[148:154], sum)
	h[154] = 0
	return b, true
}

func fits(n, limit int64) bool { return n >= 0 && n <= limit }

// octal fills field with n in octal digits.
func octal(field []byte, n int64) {
	for i := len(field) - 1; i >= 0; i-- {
		field[i] = byte('0' + n&7)
		n >>= 3
	}
}

// splitUSTAR divides a path between the two fields that a USTAR header has for it.
func splitUSTAR(name string) (prefix, rest string, ok bool) {
	if !ascii(name) {
		return "", "", false
	}
	if len(name) <= 100 {
		return "", name, true
	}
	end := min(len(name)-1, 155+1) // a trailing slash belongs to the name
	i := strings.LastIndexByte(name[:end], '/')
	if i <= 0 || len(name)-i-1 > 100 || len(name)-i-1 == 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == 0 {
			return false
		}
	}
	return true
}
