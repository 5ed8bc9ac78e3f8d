package dockerfile

import "strings"

// Text is the file as it was read.
func (f *File) Text() string { return strings.Join(f.lines, "") }
