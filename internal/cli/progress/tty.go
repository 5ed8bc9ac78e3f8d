package progress

import (
	"fmt"
	"strings"
	"time"

	"slipway/internal/build"
)

// tty draws a live view: what is over scrolls away above, what runs is redrawn below, each step with its clock and
// its last lines of output. Nothing is ever drawn beyond the terminal's width or height, so that going back up by as
// many lines as were drawn always lands where the drawing began.
type tty struct {
	*output
	terminal Terminal
	begun    time.Time
	over     []string // finished lines that were not drawn yet
	drawn    int      // lines of the live part on the screen
	done     int
	cached   int
	failed   int
}

// logLines is how many lines of a running step's output are shown.
const logLines = 5

func (t *tty) live() bool { return true }

func (t *tty) event(_ string, s *step, e build.Event) {
	switch e.Kind {
	case build.Cached:
		t.cached++
		t.over = append(t.over, t.line(green, "✓", s.name, "cached"))
	case build.Done:
		t.done++
		t.over = append(t.over, t.line(green, "✓", s.name, took(e.Took)))
	case build.Failed:
		t.failed++
		t.over = append(t.over, t.line(red, "✗", s.name, took(e.Took)))
		for _, line := range s.tail {
			t.over = append(t.over, t.log(line))
		}
	case build.Warning:
		t.over = append(t.over, t.line(yellow, "!", "warning: "+Clean(e.Text, maxLine), ""))
	case build.Reason:
		t.over = append(t.over, t.line(none, " ", s.name, ""), t.log("because "+Clean(e.Text, maxLine)))
	case build.Note:
		t.over = append(t.over, t.line(none, " ", Clean(e.Text, maxLine), ""))
	case build.Started, build.Log, build.Progress, build.Result: // the next tick shows what there is to show
	}
}

func (t *tty) tick(running []*step, now time.Time, last bool) {
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	b.WriteString("\r\x1b[J") // erase the live part; finished lines take its place
	for _, line := range t.over {
		b.WriteString(line + "\n")
	}
	t.over = t.over[:0]
	var live []string
	if !last {
		live = t.view(running, now)
	}
	for _, line := range live {
		b.WriteString(line + "\n")
	}
	t.drawn = len(live)
	t.print(b.String())
}

// view is the live part: a summary, then every running step while there is room.
func (t *tty) view(running []*step, now time.Time) []string {
	if len(running) == 0 {
		return nil
	}
	_, rows := t.size()
	room := max(rows-1, 2)
	summary := fmt.Sprintf("%d done, %d cached, %d running", t.done, t.cached, len(running))
	lines := []string{t.line(none, " ", summary, seconds(now.Sub(t.begun)))}
	logs := max(0, min(logLines, (room-1-len(running))/len(running)))
	for _, s := range running {
		if len(lines) == room {
			break
		}
		right := seconds(now.Sub(s.started))
		if s.bytes > 0 {
			right = transfer(s.bytes, s.total) + "  " + right
		}
		lines = append(lines, t.line(blue, "▸", s.name, right))
		for _, text := range s.tail[max(0, len(s.tail)-logs):] {
			if len(lines) < room {
				lines = append(lines, t.log(text))
			}
		}
	}
	return lines
}

// line sets a mark, a text and, at the right edge if there is room, a note.
func (t *tty) line(c color, mark, text, right string) string {
	columns, _ := t.size()
	room := columns - 3
	if n := textWidth(right) + 1; right != "" && n+10 <= room {
		text = cut(text, room-n)
		right = strings.Repeat(" ", room-textWidth(text)-n+1) + right
	} else {
		text, right = cut(text, max(room, 1)), ""
	}
	return " " + t.paint(c, mark) + " " + text + t.paint(faint, right)
}

func (t *tty) log(text string) string {
	columns, _ := t.size()
	return t.paint(faint, "   │ "+cut(text, max(columns-5, 1)))
}

// size is the terminal's, without its last column: writing there makes some terminals wrap.
func (t *tty) size() (columns, rows int) {
	columns, rows = t.terminal.Size()
	if columns <= 0 || rows <= 0 { // a terminal that does not know
		columns, rows = 80, 24
	}
	return columns - 1, rows
}

// color is an SGR parameter (ECMA-48 §8.3.117).
type color string

const (
	none   color = ""
	faint  color = "2"
	red    color = "31"
	green  color = "32"
	yellow color = "33"
	blue   color = "34"
)

func (t *tty) paint(c color, text string) string {
	if !t.terminal.Color || c == none || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}
