package cli

import (
	"github.com/spf13/pflag"

	"slipway/internal/build"
)

// mediaTypes is a family of media types.
type mediaTypes string

const (
	ociTypes    mediaTypes = "oci"
	dockerTypes mediaTypes = "docker"
)

// shapeFlags adds the flags that say how an image is put together from its layers.
func (f *buildFlags) shapeFlags(flags *pflag.FlagSet) {
	f.mediaTypes = ociTypes
	flags.StringArrayVar(&f.annotations, "annotation", nil, "add an annotation, `[LEVEL:]K=V`; the levels are manifest (the default), manifest-descriptor, index and index-descriptor")
	flags.Var(choice[mediaTypes]{&f.mediaTypes, []string{string(ociTypes), string(dockerTypes)}}, "media-types", "state the image with media types of `oci|docker`")
	flags.BoolVar(&f.Squash, "squash", false, "make one layer of all that the build adds to its base image")
}

func (f *buildFlags) parseShape() error {
	f.DockerTypes = f.mediaTypes == dockerTypes
	for _, word := range f.annotations {
		list, err := build.ParseAnnotation(word)
		if err != nil {
			return err
		}
		f.Annotations = append(f.Annotations, list...)
	}
	return nil
}
