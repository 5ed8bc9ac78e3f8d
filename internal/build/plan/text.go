package plan

import (
	"encoding/json"
	"fmt"
	"strings"

	"slipway/internal/oci"
)

// String writes the whole graph down, for tests and for people who want to know what a Dockerfile came to.
func (g *Graph) String() string {
	var b strings.Builder
	for _, s := range g.Stages {
		s.write(&b, s == g.Target)
	}
	for _, w := range g.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	return b.String()
}

func (s *Stage) write(b *strings.Builder, target bool) {
	fmt.Fprintf(b, "stage %d %q %s", s.Index, s.Name, oci.FormatPlatform(s.Platform))
	if target {
		b.WriteString(" target")
	}
	fmt.Fprintf(b, "\n  %d:%d %s%s\n", s.Line, s.Col, numbered(s.Number), s.Text)
	for _, st := range s.Steps {
		fmt.Fprintf(b, "  %d:%d %s%s\n", st.Line, st.Col, numbered(st.Number), oneLine(st.Text))
		if st.CreatedBy != st.Text || !st.Empty {
			fmt.Fprintf(b, "    history empty=%t %s\n", st.Empty, oneLine(st.CreatedBy))
		}
		if st.Op != nil {
			b.WriteString("    " + describe(st.Op) + "\n")
		}
	}
	config, err := json.Marshal(s.Config.Config)
	if err != nil {
		config = []byte(err.Error())
	}
	fmt.Fprintf(b, "  config %s author=%q %s\n", oci.FormatPlatform(s.Config.Platform), s.Config.Author, config)
}

func numbered(n string) string {
	if n == "" {
		return ""
	}
	return "[" + n + "] "
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }

// describe writes an operation on one line, without its empty fields.
func describe(op Op) string {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", name, value)
		}
	}
	list := func(name string, values []string) {
		if len(values) > 0 {
			field(name, fmt.Sprintf("%q", values))
		}
	}
	files := func(name string, values []InlineFile) {
		for _, f := range values {
			field(name, fmt.Sprintf("%s:%04o:%q", f.Name, f.Mode, f.Data))
		}
	}
	switch op := op.(type) {
	case *Run:
		b.WriteString("run")
		list("args", op.Args)
		list("env", op.Env)
		list("hidden", op.HiddenEnv)
		field("dir", op.Dir)
		field("user", op.User)
		field("network", op.Network)
		for _, m := range op.Mounts {
			field("mount", m.describe())
		}
		field("insecure", flag(op.Insecure))
		for _, d := range op.Devices {
			field("device", fmt.Sprintf("%+v", d))
		}
		files("file", op.Files)
	case *Copy:
		b.WriteString("copy")
		field("from", op.From.String())
		list("sources", op.Sources)
		for _, r := range op.Remotes {
			if r.Git != nil {
				field("git", fmt.Sprintf("{%d %+v keep=%t}", r.At, *r.Git, r.KeepGitDir))
			} else {
				field("file", fmt.Sprintf("{%d %s %s checksum=%s extract=%t}", r.At, r.URL, r.Name, r.Checksum, r.Extract))
			}
		}
		for _, p := range op.Parents {
			field("parents", fmt.Sprintf("%+v", p))
		}
		list("exclude", op.Exclude)
		files("inline", op.Inline)
		field("dest", op.Dest)
		field("dir", flag(op.DestIsDir))
		field("chown", op.Chown)
		field("chmod", op.Chmod)
		field("extract", flag(op.Extract))
		field("link", flag(op.Link))
	case *Mkdir:
		b.WriteString("mkdir")
		field("path", op.Path)
		field("owner", op.Owner)
	}
	return b.String()
}

func (m Mount) describe() string {
	return fmt.Sprintf("{%s %s from=%s%s ro=%t id=%s sharing=%s size=%d env=%s required=%t %04o %d:%d}",
		m.Type, m.Target, m.From, m.Path, m.ReadOnly, m.ID, m.Sharing, m.Size, m.Env, m.Required, m.Mode, m.UID, m.GID)
}

func flag(set bool) string {
	if set {
		return "true"
	}
	return ""
}

// String names the source: "scratch", "context", "stage N" or an image's reference.
func (s Source) String() string {
	switch s.Kind {
	case FromStage:
		return fmt.Sprintf("stage %d", s.Stage.Index)
	case FromImage:
		return s.Image.Ref + " " + oci.FormatPlatform(s.Platform)
	case FromContext:
		return strings.TrimSpace("context " + s.Context)
	}
	return string(s.Kind)
}
