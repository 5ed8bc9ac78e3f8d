package estargz

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"

	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/chunk"
)

// Convert implements accel.Format. With Options.First the tar is read three times: to see which of the files are links
// to others, for them, and for the rest.
func (f *Format) Convert(ctx context.Context, dst io.Writer, in accel.Stack) (accel.Layer, error) {
	l, err := f.convert(ctx, dst, in.Top())
	if err != nil {
		return accel.Layer{}, fmt.Errorf("write estargz: %w", err)
	}
	return l, nil
}

func (f *Format) convert(ctx context.Context, dst io.Writer, top accel.Tar) (accel.Layer, error) {
	toc := &table{last: map[string]int{}}
	w := chunk.NewWriter(ctx, dst, chunk.Options{Codec: gzipCodec{f.level}, Entry: toc.add})
	defer w.Close()
	first, err := f.choose(ctx, top)
	if err != nil {
		return accel.Layer{}, err
	}
	landmark := noPrefetch
	if len(first) > 0 {
		landmark = prefetchLandmark
		if err := pass(ctx, w, top, func(h *tar.Header) bool { return first[clean(h.Name)] && !reserved(h.Name) }); err != nil {
			return accel.Layer{}, err
		}
	}
	if err := w.File(&tar.Header{Typeflag: tar.TypeReg, Name: landmark, Size: 1}, []byte{0xf}); err != nil {
		return accel.Layer{}, err
	}
	if err := pass(ctx, w, top, func(h *tar.Header) bool { return !first[clean(h.Name)] && !reserved(h.Name) }); err != nil {
		return accel.Layer{}, err
	}
	if err := w.Finish(); err != nil {
		return accel.Layer{}, err
	}
	if err := toc.check(); err != nil {
		return accel.Layer{}, err
	}
	return f.finish(w, toc)
}

// pass adds some entries of a tar.
func pass(ctx context.Context, w *chunk.Writer, t accel.Tar, keep func(*tar.Header) bool) (err error) {
	r, err := t(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return w.Tar(r, keep)
}

// choose finds which entries of the layer come first: files of Options.First, what they are links to, and the folders
// that they are in.
func (f *Format) choose(ctx context.Context, t accel.Tar) (_ map[string]bool, err error) {
	if len(f.first) == 0 {
		return nil, nil
	}
	r, err := t(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	first, links, found := map[string]bool{}, map[string]string{}, []string{}
	err = chunk.Headers(r, func(h *tar.Header) {
		name := clean(h.Name)
		if h.Typeflag == tar.TypeLink {
			links[name] = clean(h.Linkname)
		}
		if f.first[name] {
			found = append(found, name)
		}
	})
	for len(found) > 0 {
		name := found[len(found)-1]
		found = found[:len(found)-1]
		for ; name != "" && name != "." && !first[name]; name = path.Dir(name) {
			first[name] = true
			if target, ok := links[name]; ok {
				found = append(found, target)
			}
		}
	}
	return first, err
}

// finish writes the table, the end of the tar and the footer.
func (f *Format) finish(w *chunk.Writer, toc *table) (accel.Layer, error) {
	text := toc.encode()
	var plain bytes.Buffer
	t := tar.NewWriter(&plain)
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: tocName, Size: int64(len(text))})
	if err == nil {
		_, err = t.Write(text)
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return accel.Layer{}, fmt.Errorf("table of contents: %w", err)
	}
	start := w.Size()
	member, err := gzipCodec{f.level}.Encoder().Encode(nil, plain.Bytes())
	if err != nil {
		return accel.Layer{}, err
	}
	if err := w.Append(plain.Bytes(), member); err != nil {
		return accel.Layer{}, err
	}
	if err := w.Append(nil, footer(start)); err != nil {
		return accel.Layer{}, err
	}
	res := w.Result()
	return accel.Layer{
		Descriptor: oci.Descriptor{
			MediaType: oci.MediaTypeLayerGzip, Digest: res.Digest, Size: res.Size,
			Annotations: map[string]string{
				AnnotationTOC:  digest.FromBytes(text).String(),
				AnnotationSize: strconv.FormatInt(res.Plain, 10),
			},
		},
		DiffID: res.DiffID,
	}, nil
}
