package remote

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// InlineAnnotation is the annotation of an image's manifest that holds the image's own records.
const InlineAnnotation = ArtifactType

// InlineStep is one operation of the stages that an image is made of.
type InlineStep struct {
	Key oci.Digest `json:"key"`
	// Below is how many of the image's layers it stood on: all that were there before, or none.
	Below int `json:"below"`
	// Layer is which of the image's layers it made, from 1; 0 when it changed nothing.
	Layer int `json:"layer,omitempty"`
	// Created is when it ran.
	Created time.Time `json:"created"`
}

// Inline returns the value of InlineAnnotation for an image. The same steps give the same value.
func Inline(steps []InlineStep) (string, error) {
	data, err := oci.Marshal(steps)
	return string(data), err
}

// decodeInline turns an image's annotation into records. The layers' descriptors and diffIDs are the image's.
func decodeInline(annotation string, layers []oci.Descriptor, diffIDs []oci.Digest) (Records, error) {
	var steps []InlineStep
	if err := json.Unmarshal([]byte(annotation), &steps); err != nil {
		return nil, errs.Mark(fmt.Errorf("annotation %s: %w", InlineAnnotation, err), errs.Corrupt)
	}
	if len(layers) != len(diffIDs) {
		return nil, fmt.Errorf("config has %d diff_ids for %d layers: %w", len(diffIDs), len(layers), errs.Corrupt)
	}
	states := chains(diffIDs)
	records := Records{}
	for _, s := range steps {
		if s.Below < 0 || s.Below > len(layers) || s.Layer < 0 || s.Layer > len(layers) || s.Key.Validate() != nil {
			continue
		}
		r := build.Record{Below: states[s.Below], Created: s.Created}
		if s.Layer > 0 {
			layer := layers[s.Layer-1]
			layer.Annotations = nil
			r.Layer, r.DiffID = &layer, diffIDs[s.Layer-1]
		}
		if sound(r) {
			records[s.Key] = Entry{Record: r, Used: s.Created}
		}
	}
	return records, nil
}

// chains returns the chainIDs of the first 0, 1, 2, … layers (OCI image-spec config.md §Layer ChainID).
func chains(diffIDs []oci.Digest) []oci.Digest {
	ids := []oci.Digest{""}
	for i, d := range diffIDs {
		if i > 0 {
			d = digest.FromString(ids[i].String() + " " + d.String())
		}
		ids = append(ids, d)
	}
	return ids
}
