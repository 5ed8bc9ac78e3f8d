package cli

import (
	"encoding/json"
	"maps"
	"strings"

	"slipway/internal/build"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// metadataOf is what --metadata-file holds: the keys that buildx writes, with its values. There is no buildx.build.ref:
// no builder keeps a record of the build.
func (f *buildFlags) metadataOf(im *build.Image) (map[string]any, error) {
	m := map[string]any{}
	if f.FilesAlone() {
		return m, nil
	}
	m["containerimage.digest"] = im.Manifest.Digest
	m["containerimage.descriptor"] = describeResult(im)
	if im.Config.Digest != "" { // an index has none
		m["containerimage.config.digest"] = im.Config.Digest
	}
	if im.Provenance != nil {
		m["buildx.build.provenance"] = json.RawMessage(im.Provenance)
	}
	var names []string
	for _, t := range f.Tags {
		r, err := ref.Parse(t)
		if err != nil {
			return nil, err
		}
		names = append(names, r.String())
	}
	if len(names) > 0 {
		m["image.name"] = strings.Join(names, ",")
	}
	return m, nil
}

// describeResult is the image's descriptor with the annotations that BuildKit adds to it.
func describeResult(im *build.Image) oci.Descriptor {
	d := im.Manifest
	d.Annotations = maps.Clone(d.Annotations)
	if im.Config.Digest == "" {
		return d
	}
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations["config.digest"] = im.Config.Digest.String()
	var config struct {
		Created string `json:"created"`
	}
	if json.Unmarshal(im.RawConfig, &config) == nil && config.Created != "" {
		d.Annotations[oci.AnnotationCreated] = config.Created
	}
	return d
}
