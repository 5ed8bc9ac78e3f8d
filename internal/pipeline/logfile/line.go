package logfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"slipway/internal/errs"
)

// Line is a record of a log that people read.
type Line struct {
	// Time is milliseconds since 1970.
	Time int64 `json:"time"`
	// Kind is one of the kinds below, empty for what a process printed.
	Kind string `json:"kind,omitempty"`
	// Section is the number of the step that it belongs to, 0 for none. A line of kind Section opens one, and gives its
	// name in Text.
	Section int `json:"section,omitempty"`
	// Stream is 1 for standard output and 2 for standard error, 0 when it is not known.
	Stream int    `json:"stream,omitempty"`
	Text   string `json:"text"`
}

// The kinds of Line.
const (
	Output  = ""
	Section = "section"
	// End closes a section.
	End    = "end"
	Notice = "notice"
	Error  = "error"
	// Gap stands where lines were lost.
	Gap = "gap"
)

// MaxText is how long a line's text is at most, in bytes; a longer one becomes several.
const MaxText = 32 << 10

// Encode makes records of a line: one, or several when its text is long.
func Encode(l Line) ([]byte, error) {
	var out bytes.Buffer
	text := strings.TrimRight(strings.ToValidUTF8(l.Text, "\uFFFD"), "\r\n")
	for {
		l.Text = cut(text)
		record, err := json.Marshal(l)
		if err != nil {
			return nil, fmt.Errorf("encode a log line: %w", err)
		}
		out.Write(record)
		out.WriteByte('\n')
		if text = text[len(l.Text):]; text == "" {
			return out.Bytes(), nil
		}
	}
}

// cut returns the beginning of text that fits into a record, without breaking a character.
func cut(text string) string {
	if len(text) <= MaxText {
		return text
	}
	n := MaxText
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// Decode reads a record. What is none is an errs.Corrupt.
func Decode(record []byte) (Line, error) {
	var l Line
	if err := json.Unmarshal(record, &l); err != nil {
		return Line{}, fmt.Errorf("read a log record: %w", errs.Mark(err, errs.Corrupt))
	}
	return l, nil
}
