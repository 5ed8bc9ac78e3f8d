package app

import (
	"cmp"

	"slipway/internal/build"
	"slipway/internal/build/solver"
	"slipway/internal/oci"
)

// shape is how the image of one platform, by default this machine's, is put together.
func (r *Build) shape(p oci.Platform) solver.Shape {
	if p.OS == "" {
		p = machine()
	}
	return solver.Shape{
		Annotations:           build.Annotations(r.Annotations, build.OnManifest, p),
		DescriptorAnnotations: build.Annotations(r.Annotations, build.OnManifestDescriptor, p),
		DockerTypes:           r.DockerTypes,
		Squash:                r.Squash,
	}
}

// checkShape refuses, before anything is built, what the images of these platforms cannot be.
func (r *Build) checkShape(platforms []oci.Platform) error {
	if err := build.CheckAnnotations(r.Annotations, platforms); err != nil {
		return err
	}
	for _, p := range platforms {
		s := r.shape(p)
		if err := s.Check(cmp.Or(r.Acceleration.Name, r.Compression.Algorithm)); err != nil {
			return err
		}
	}
	return nil
}

// checkOne is checkShape for a build of one platform.
func (r *Build) checkOne() error {
	p := machine()
	if r.Platform != "" {
		var err error
		if p, err = oci.ParsePlatform(r.Platform); err != nil {
			return err
		}
	}
	return r.checkShape([]oci.Platform{p})
}
