package solver

import (
	"context"
	"io"
	"slices"

	"slipway/internal/build"
	"slipway/internal/build/output"
	"slipway/internal/oci"
)

// wantsFiles says whether an output takes the image's files, for which every layer must be a folder.
func (b *builder) wantsFiles() bool {
	return slices.ContainsFunc(b.req.Outputs, func(o output.Output) bool { return output.HoldsFiles(o.Type) })
}

// wantsImage says whether anybody takes the image itself. When only its files are asked for, no layer is packed.
func (b *builder) wantsImage() bool {
	return b.req.Push || b.req.Keep || len(b.req.Outputs) == 0 ||
		slices.ContainsFunc(b.req.Outputs, func(o output.Output) bool { return !output.HoldsFiles(o.Type) })
}

// output writes the result where registries are not.
func (b *builder) output(ctx context.Context, st *stack, im *build.Image) error {
	for _, o := range b.req.Outputs {
		for _, t := range b.req.Tags {
			o.Names = append(o.Names, t.String())
		}
		ev := b.events.start("write " + o.Type + " to " + o.Dest)
		err := b.writeOutput(ctx, o, st, im)
		ev.End("", err)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) writeOutput(ctx context.Context, o output.Output, st *stack, im *build.Image) error {
	if output.HoldsFiles(o.Type) {
		v, err := b.fullView(ctx, st)
		if err != nil {
			return err
		}
		return o.WriteFiles(ctx, v.Walk(ctx, "."), b.req.Epoch)
	}
	byDigest := map[oci.Digest]*rung{}
	for i, l := range im.Layers {
		byDigest[l.Digest] = st.rungs[i]
	}
	return o.Write(ctx, im, func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
		return b.openLayer(ctx, byDigest[d.Digest], d)
	})
}
