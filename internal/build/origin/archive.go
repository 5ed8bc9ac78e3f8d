package origin

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

const (
	// maxBytes is more than any context holds: see Options.MaxBytes. A hole in a file takes no room, but its zeros have
	// to be counted: it bounds how long a few bytes of a stranger's can keep a processor busy.
	maxBytes = 1 << 40
	// maxEntries is more files than any context has. An empty one takes an inode, of which a disk has a number.
	maxEntries = 16 << 20
	// maxAlone is more than any Dockerfile has.
	maxAlone = 16 << 20
)

// stdin reads a context from standard input. Nobody will ask for the same again: it is not kept.
func (o *Opener) stdin(ctx context.Context) (Files, error) {
	if o.Stdin == nil {
		return Files{}, fmt.Errorf("there is no standard input: %w", errs.Invalid)
	}
	st := o.Start("read standard input")
	f, _, err := o.unpack(ctx, &counter{r: o.Stdin, tell: st.Progress, total: -1}, "")
	st.End("", err)
	return f, err
}

// file fetches a context, unless the server says that the one from last time is still right.
func (o *Opener) file(ctx context.Context, c address.Context, r fetch.FileRequest) (Files, error) {
	st := o.Start("fetch " + c.Word)
	r.Progress, r.MaxBytes = st.Progress, o.MaxBytes
	got, err := o.Fetch.File(ctx, r)
	st.End(got.Digest.String(), err)
	if err != nil {
		return Files{}, err
	}
	files := Files{Digest: got.Digest, Size: got.Size}
	if got.ModTime.Unix() != 0 { // which stands for a server that does not say
		files.ModTime = got.ModTime
	}
	key := digest.FromString("context " + got.Digest.String())
	files.Dir, err = o.kept(ctx, key, func() (_ string, err error) {
		blob, err := o.Fetch.Blobs.Open(ctx, got.Digest)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, blob.Close()) }()
		st := o.Start("unpack " + c.Word)
		unpacked, publish, err := o.unpack(ctx, &counter{r: blob, tell: st.Progress, total: got.Size}, c.Word)
		switch {
		case o.named && errors.Is(err, errNoArchive):
			err = nil
		case err == nil && publish != nil:
			err = publish(key)
		}
		st.End("", err)
		files.Alone = unpacked.Alone
		return unpacked.Dir, err
	})
	return files, err
}

// unpack makes a folder of an archive, whatever it is compressed with, which publish keeps. Anything else that is not
// compressed comes back as it is.
func (o *Opener) unpack(ctx context.Context, r io.Reader, name string) (_ Files, publish func(digest.Digest) error, err error) {
	raw := bufio.NewReaderSize(r, bufferSize)
	first, err := peek(raw)
	if err != nil {
		return Files{}, nil, err
	}
	plain, err := layer.Decompress(raw)
	if err != nil {
		return Files{}, nil, err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	in := bufio.NewReaderSize(plain, bufferSize)
	block, err := peek(in)
	if err != nil {
		return Files{}, nil, err
	}
	switch {
	case isTar(block):
	case len(first) == 0:
		return Files{}, nil, fmt.Errorf("it is empty: %w", errNoArchive)
	case !bytes.Equal(first, block) || bytes.IndexByte(block, 0) >= 0:
		return Files{}, nil, errNoArchive
	case o.named:
		return Files{}, nil, errNoArchive
	default:
		text, err := io.ReadAll(io.LimitReader(in, maxAlone+1))
		if len(text) > maxAlone {
			err = fmt.Errorf("it has more than %d bytes: %w", maxAlone, errNoArchive)
		}
		return Files{Alone: text}, nil, err
	}
	draft, err := o.begin(ctx)
	if err != nil {
		return Files{}, nil, err
	}
	most := o.MaxBytes
	if most <= 0 {
		most = maxBytes
	}
	if _, err := layer.Extract(ctx, draft.Dir(), in, layer.ApplyOptions{MaxBytes: most, MaxEntries: maxEntries}); err != nil {
		if name != "" && errors.Is(err, errs.Limit) && o.MaxBytes > 0 {
			err = errs.Hint(err, "allow more with --disk")
		}
		return Files{}, nil, err
	}
	return Files{Dir: draft.Dir()}, func(key digest.Digest) error { return draft.Publish(ctx, key) }, nil
}

// errNoArchive is what is wrong with bytes that are no context.
var errNoArchive = errs.Mark(errors.New("neither a tar nor a Dockerfile"), errs.Invalid)

const (
	bufferSize = 64 << 10
	blockSize  = 512 // of a tar
)

// peek looks at the beginning of what is read, which may have less than a block.
func peek(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(blockSize)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return bytes.Clone(head), err
}

// isTar says whether a block is the header of a file (POSIX pax, ustar Interchange Format: the checksum is that of the
// header with spaces in its own place), or the end of an archive that has none. A text of that length is neither: the
// chance that it has its own checksum in octal where the header does is nil.
func isTar(block []byte) bool {
	if len(block) < blockSize {
		return false
	}
	const from, to = 148, 156
	text := strings.Trim(string(block[from:to]), " \x00")
	want, err := strconv.ParseUint(text, 8, 32)
	var unsigned uint64
	var signed int64 // as some archivers of old have it
	zero := true
	for i, c := range block {
		zero = zero && c == 0
		if from <= i && i < to {
			c = ' '
		}
		unsigned += uint64(c)
		signed += int64(int8(c))
	}
	return zero || err == nil && (want == unsigned || int64(want) == signed)
}

// counter tells how much was read, not more often than a person can see.
type counter struct {
	r              io.Reader
	n, told, total int64
	tell           func(done, total int64)
}

const tellEvery = 4 << 20

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n-c.told >= tellEvery {
		c.told = c.n
		c.tell(c.n, c.total)
	}
	return n, err
}
