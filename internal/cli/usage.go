package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage writes the part of a command's help that follows its description.
func usage(w io.Writer, cmd *cobra.Command) error {
	var b strings.Builder
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, "Usage:\n  %s\n", use)
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	groups := cmd.Groups()
	if len(groups) == 0 {
		groups = []*cobra.Group{{Title: "Commands"}}
	}
	for _, g := range groups {
		listCommands(&b, g, cmd.Commands())
	}
	if cmd.HasAvailableLocalFlags() {
		b.WriteString("\nFlags:\n")
		listFlags(&b, cmd.LocalFlags())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func listCommands(b *strings.Builder, g *cobra.Group, commands []*cobra.Command) {
	title := "\n" + g.Title + ":\n"
	for _, c := range commands {
		if c.GroupID != g.ID || c.Hidden {
			continue
		}
		fmt.Fprintf(b, "%s  %-11s %s\n", title, c.Name(), c.Short)
		title = ""
	}
}

// Columns of the list of flags: where descriptions begin, and where they are broken.
const (
	descriptionColumn = 34
	lastColumn        = 112
)

// listFlags writes a line for each flag, as pflag would but for long names, long descriptions and characters of more
// than one byte.
func listFlags(b *strings.Builder, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, description := pflag.UnquoteUsage(f)
		name := "      --" + f.Name
		if f.Shorthand != "" {
			name = "  -" + f.Shorthand + ", --" + f.Name
		}
		if f.Value.Type() != "bool" {
			name += " " + value
		}
		if !slices.Contains([]string{"", "0", "0s", "[]", "false"}, f.DefValue) {
			description += " (default " + f.DefValue + ")"
		}
		column := utf8.RuneCountInString(name)
		b.WriteString(name)
		if column > descriptionColumn-2 {
			b.WriteString("\n")
			column = 0
		}
		b.WriteString(strings.Repeat(" ", descriptionColumn-column))
		wrap(b, description)
	})
}

// wrap writes text from descriptionColumn on, broken between words.
func wrap(b *strings.Builder, text string) {
	column := descriptionColumn
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > lastColumn:
			b.WriteString("\n" + strings.Repeat(" ", descriptionColumn))
			column = descriptionColumn
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += n
	}
	b.WriteString("\n")
}
