package store

import (
	"encoding/json"
	"fmt"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

// encoding is the form that resolved pipelines are stored in. A form that cannot be read any more would make old runs
// impossible to repeat: add to it, or raise Form and keep reading the old one.
type encoding struct {
	Form     int                `json:"form"`
	Pipeline *pipeline.Pipeline `json:"pipeline"`
}

const form = 1

// Encode makes text of a resolved pipeline, from which Decode makes the same pipeline.
func Encode(p *pipeline.Pipeline) (string, error) {
	text, err := json.Marshal(encoding{form, p})
	if err != nil {
		return "", fmt.Errorf("encode pipeline %s: %w", p.Name, err)
	}
	return string(text), nil
}

// Decode reads what Encode made. A text that is none is an errs.Corrupt.
func Decode(text string) (*pipeline.Pipeline, error) {
	var e encoding
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, fmt.Errorf("decode a resolved pipeline: %w", errs.Mark(err, errs.Corrupt))
	}
	if e.Form != form || e.Pipeline == nil {
		return nil, fmt.Errorf("decode a resolved pipeline: form %d is not known here: %w", e.Form, errs.Corrupt)
	}
	return e.Pipeline, nil
}
