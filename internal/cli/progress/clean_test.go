package progress_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"slipway/internal/cli/progress"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in, want string }{
		{"plain", "ordinary text", "ordinary text"},
		{"tab", "a\tb", "a\tb"},
		{"chinese", "镜像构建", "镜像构建"},
		{"colours", "\x1b[1;31mred\x1b[0m", "red"},
		{"clear the screen", "\x1b[2J\x1b[Hgone", "gone"},
		{"window title", "\x1b]0;owned\x07text", "text"},
		{"hyperlink", "\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"},
		{"device control", "\x1bP1$r\x1b\\x", "x"},
		{"never ends", "a\x1b]0;b", "a"},
		{"character set", "\x1b(Bx", "x"},
		{"reset", "\x1bcx", "x"},
		{"escape at the end", "x\x1b", "x"},
		{"escape before a control", "\x1b\x01x", "x"},
		{"escape before chinese", "\x1b镜", "镜"},
		{"eight-bit CSI", "\u009b31mx", "x"},
		{"eight-bit OSC", "\u009d0;t\u009cx", "x"},
		{"eight-bit ST alone", "\u009cx", "x"},
		{"progress bar", "10%\r50%\r100%", "100%"},
		{"progress bar that waits", "10%\r50%\r", "50%"},
		{"bell and backspace", "a\a\bb", "ab"},
		{"line separator", "a\u2028b", "a b"},
		{"not UTF-8", "a\xffb", "a\ufffdb"},
		{"reordered", "a\u202eb", "a\ufffdb"},
		{"too long", strings.Repeat("x", 70), strings.Repeat("x", 64) + "… (6 more bytes)"},
		{"too long to hide an escape", strings.Repeat("x", 64) + "\x1b[2J", strings.Repeat("x", 64) + "… (4 more bytes)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := progress.Clean(tc.in, 64); got != tc.want {
				t.Errorf("Clean(%q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\r\n")
	f.Add("\x1b]0;t\x07\u009b2J\xff")
	f.Fuzz(func(t *testing.T, in string) {
		got := progress.Clean(in, 100)
		if !utf8.ValidString(got) || len(got) > 150 {
			t.Errorf("Clean(%q) = %q", in, got)
		}
		for _, r := range got {
			if r != '\t' && unicode.IsControl(r) {
				t.Errorf("Clean(%q) = %q has control character %U", in, got, r)
			}
		}
	})
}

func BenchmarkClean(b *testing.B) {
	for _, bc := range []struct{ name, line string }{
		{"ascii", "cc -O2 -c main.c -o main.o"},
		{"colours", "\x1b[1mcc\x1b[0m -O2 -c \x1b[31mmain.c\x1b[0m"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.SetBytes(int64(len(bc.line)))
			for b.Loop() {
				progress.Clean(bc.line, 100)
			}
		})
	}
}
