package progress

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a stranger's text may take of a screen, in bytes.
const (
	maxLine = 16 << 10
	maxName = 512
)

const escape = '\x1b'

// Clean makes one line of a stranger's text safe to print: escape sequences and control characters are dropped, a
// carriage return starts the line anew as it does on a terminal, bytes that are not UTF-8 and characters that reorder
// text become U+FFFD, and what exceeds limit bytes is cut with a word about how much. Tabs stay.
func Clean(line string, limit int) string {
	if plainASCII(line) && len(line) <= limit {
		return line
	}
	line = strings.TrimRight(line, "\r\n")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	var b strings.Builder
	for rest := line; rest != ""; {
		if b.Len() >= limit {
			fmt.Fprintf(&b, "… (%d more bytes)", len(rest))
			break
		}
		r, size := utf8.DecodeRuneInString(rest)
		if n := sequence(rest); n > 0 {
			rest = rest[n:]
			continue
		}
		rest = rest[size:]
		if r = visible(r); r >= 0 {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func plainASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}

// visible returns the character to show for r, or -1 for none.
func visible(r rune) rune {
	switch {
	case r == '\t':
		return r
	case r == '\n', r == '\u2028', r == '\u2029':
		return ' '
	case unicode.Is(unicode.Cc, r):
		return -1
	case unicode.Is(unicode.Bidi_Control, r):
		// "Trojan Source": text that reads otherwise than it is.
		return utf8.RuneError
	}
	return r
}

// sequence returns the length of the escape sequence (ECMA-48 §5) that s starts with, or 0. One that does not end
// takes the rest of the line with it.
func sequence(s string) int {
	introducer, start := s[0], 1
	switch r, size := utf8.DecodeRuneInString(s); r {
	case escape:
		if len(s) > 1 {
			introducer, start = s[1], 2
		}
	case 0x90, 0x98, 0x9b, 0x9d, 0x9e, 0x9f: // the same in one character: DCS, SOS, CSI, OSC, PM, APC
		introducer, start = byte(r-0x40), size
	default:
		return 0
	}
	switch introducer {
	case '[':
		return control(s, start)
	case ']', 'P', 'X', '^', '_':
		return commandString(s, start)
	}
	return short(s)
}

// short skips ESC, intermediate bytes and a final one: ESC ( B.
func short(s string) int {
	i := 1
	for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f {
		i++
	}
	if i < len(s) && s[i] >= 0x30 && s[i] <= 0x7e {
		i++
	}
	return i
}

// control skips parameters, intermediates and the final byte of a control sequence.
func control(s string, i int) int {
	for i < len(s) && s[i] >= 0x20 && s[i] <= 0x3f {
		i++
	}
	if i < len(s) && s[i] >= 0x40 && s[i] <= 0x7e {
		i++
	}
	return i
}

// commandString skips to behind BEL or ST.
func commandString(s string, i int) int {
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\a':
			return i + 1
		case s[i] == escape && i+1 < len(s) && s[i+1] == '\\':
			return i + 2
		case strings.HasPrefix(s[i:], "\u009c"):
			return i + len("\u009c")
		}
	}
	return i
}

// cut shortens clean text to at most columns of a terminal, with an ellipsis where something is missing. Tabs count,
// and are replaced, as one space.
func cut(text string, columns int) string {
	text = strings.ReplaceAll(text, "\t", " ")
	if len(text) <= columns {
		return text
	}
	used, fits := 0, 0 // fits: bytes that leave a column for the ellipsis
	for i, r := range text {
		used += width(r)
		if used > columns {
			return text[:fits] + "…"
		}
		if used < columns {
			fits = i + utf8.RuneLen(r)
		}
	}
	return text
}

// textWidth is the columns that text takes.
func textWidth(text string) int {
	n := 0
	for _, r := range text {
		n += width(r)
	}
	return n
}

// width is the columns that r takes: Unicode's East Asian Width in its broad strokes (UAX #11), which is what
// terminals do. A wrong guess misplaces a time on a line; it never breaks one.
func width(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, // Hangul Jamo
		r >= 0x2e80 && r <= 0xa4cf && r != 0x303f,              // CJK … Yi
		r >= 0xac00 && r <= 0xd7a3,                             // Hangul
		r >= 0xf900 && r <= 0xfaff,                             // CJK compatibility
		r >= 0xfe30 && r <= 0xfe6f,                             // CJK forms
		r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, // full-width forms
		r >= 0x1f300 && r <= 0x1faff, // pictographs
		r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
