package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Media types of a cache.
const (
	ArtifactType = "application/vnd.slipway.cache.v1"
	RecordsType  = "application/vnd.slipway.cache.records.v1+json"
)

// maxRecordsBytes bounds a cache's config: maxEntries entries are a fifth of it.
const maxRecordsBytes = 32 << 20

// document is the config of a cache's manifest.
type document struct {
	Records Records `json:"records"`
}

// encode returns the manifest of a cache and its config. Equal records give equal bytes.
func (r Records) encode() (manifest, config []byte, err error) {
	if config, err = oci.Marshal(document{r}); err != nil {
		return nil, nil, err
	}
	m := oci.NewManifest(oci.Describe(RecordsType, config), r.Layers(), nil)
	m.ArtifactType = ArtifactType
	manifest, err = oci.Marshal(m)
	return manifest, config, err
}

// isCache says whether a manifest is one of a cache.
func isCache(m oci.Manifest) bool {
	return m.ArtifactType == ArtifactType && m.Config.MediaType == RecordsType
}

// decodeManifest reads a stranger's manifest.
func decodeManifest(data []byte) (oci.Manifest, error) {
	var m oci.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, errs.Mark(fmt.Errorf("manifest: %w", err), errs.Corrupt)
	}
	return m, nil
}

// decode reads a stranger's records. Entries that cannot mean anything are left out: the others may be good.
func decode(data []byte) (Records, error) {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, errs.Mark(fmt.Errorf("records: %w", err), errs.Corrupt)
	}
	for key, e := range doc.Records {
		if key.Validate() != nil || !sound(e.Record) {
			delete(doc.Records, key)
		}
	}
	if doc.Records == nil {
		return Records{}, nil
	}
	return doc.Records, nil
}

// sound says whether a record can be used on another machine.
func sound(r build.Record) bool {
	switch {
	case r.Below != "" && r.Below.Validate() != nil, r.Folder != "":
		return false
	case r.Layer == nil:
		return r.DiffID == ""
	}
	return r.DiffID.Validate() == nil && r.Layer.Digest.Validate() == nil && r.Layer.Size > 0 && isLayer(r.Layer.MediaType)
}

// isLayer says whether a media type is one that slipway gives to layers that it packs.
func isLayer(mediaType string) bool {
	switch mediaType {
	case oci.MediaTypeLayer, oci.MediaTypeLayerGzip, oci.MediaTypeLayerZstd:
		return true
	}
	return false
}

// readRecords reads a cache's config.
func readRecords(r io.ReadCloser, size int64) (_ Records, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	if size > maxRecordsBytes {
		return nil, fmt.Errorf("records: %d bytes are too many: %w", size, errs.Corrupt)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxRecordsBytes+1))
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	return decode(data)
}
