package plan

import (
	"io/fs"

	"slipway/internal/build/address"
	"slipway/internal/oci"
)

// Networks of a RUN.
const (
	NetworkDefault = "default"
	NetworkNone    = "none"
	NetworkHost    = "host"
)

// Stage is one FROM and what follows it.
type Stage struct {
	Index int    // in the Dockerfile, from 0
	Name  string // as displayed: after AS, else "stage-N"; "" when the file has a single stage
	Line  int    // of its FROM
	Col   int    //
	Text  string // "FROM docker.io/library/busybox:latest@sha256:…"
	// Number is the FROM's place among the stage's steps, "1/4", when the base is an image; else "".
	Number string
	Base   Source
	// Platform is what the stage runs on and its COPYs are for.
	Platform oci.Platform
	Steps    []*Step
	// Config is the stage's final config. Its History and RootFS are still those of the image at the bottom: who
	// builds the steps adds to them.
	Config oci.Image
}

// Step is one instruction.
type Step struct {
	// Op is the work to do; nil when only the config changed.
	Op Op
	// Line and Col are where the instruction begins; for a trigger of ONBUILD, where the FROM does that brought it.
	Line, Col int
	// Text is the instruction as displayed, variables expanded: "RUN echo hi", "ONBUILD RUN echo hi".
	Text string
	// CreatedBy is its history, as BuildKit writes it but for the " # buildkit" that it adds to some.
	CreatedBy string
	// Empty says that the step makes no layer, as history's empty_layer.
	Empty bool
	// Number is the step's place among those with work, "3/7", counted as BuildKit counts; else "".
	Number string
}

// SourceKind says what a Source is.
type SourceKind string

// Kinds of Source.
const (
	FromScratch SourceKind = "scratch" // no files
	FromContext SourceKind = "context" // a build context, without what its ignore file hides
	FromStage   SourceKind = "stage"   // Stage is set
	FromImage   SourceKind = "image"   // Image is set
)

// Source is where files come from.
type Source struct {
	Kind  SourceKind
	Stage *Stage
	Image *Image
	// Context is the name of a build context, a key of Options.Contexts; "" for the main one.
	Context string
	// Platform is the one to take from an image.
	Platform oci.Platform
}

// Op is the work of a step: a *Run, a *Copy or a *Mkdir.
type Op interface{ op() }

// InlineFile is a file whose content stands in the Dockerfile.
type InlineFile struct {
	Name string
	Data string
	Mode fs.FileMode // permission bits
}

// Run runs a process on the stage's files.
type Run struct {
	Args []string
	// Env is the environment: the config's ENV and the ARGs in scope, in BuildKit's order, names unique.
	Env []string
	// HiddenEnv is what the process gets besides but which determines nothing and is no part of a cache key: proxies
	// that were passed as build arguments.
	HiddenEnv []string
	Dir       string // absolute, clean; made if it does not exist
	User      string // "", or as USER wrote it: names and numbers, user[:group]
	Network   string // NetworkDefault, NetworkNone or NetworkHost
	Mounts    []Mount
	// Insecure asks for all privileges (--security=insecure).
	Insecure bool `json:",omitempty"`
	// Devices are what --device asks for.
	Devices []Device `json:",omitempty"`
	// Files are scripts of heredocs that begin with #!; Name is an absolute path in a folder mounted read-only.
	Files []InlineFile
}

// Device is one or more of the machine's devices: by the name that a CDI spec gives it, by kind or by class.
type Device struct {
	Name     string
	Required bool // one that is not there fails the RUN
}

// Kinds of Mount.
const (
	MountBind   = "bind"   // files of a Source
	MountCache  = "cache"  // a folder that outlives the build
	MountTmpfs  = "tmpfs"  // an empty folder in memory
	MountSecret = "secret" // a file or a variable that no layer, key or log shows
	MountSSH    = "ssh"    // the socket of an SSH agent
)

// Mount is something that a RUN sees and no layer holds.
type Mount struct {
	Type   string
	Target string // absolute, clean; "" for a secret that is only a variable
	// From is where a bind's files and a new cache's come from: FromScratch when nothing does.
	From Source
	Path string // in From, absolute, clean
	// ReadOnly forbids writing. What is written to a bind that is not read-only is lost.
	ReadOnly bool
	ID       string // of a cache, a secret or an SSH agent
	Sharing  string // of a cache: "shared", "private" or "locked"
	Size     int64  // of a tmpfs, in bytes; 0: no limit
	Env      string // the variable that holds a secret; "": none
	Required bool   // a secret or an SSH agent that is not there fails the RUN
	// Mode, UID and GID are those of a cache's folder, a secret's file or a socket.
	Mode     fs.FileMode
	UID, GID int
}

// Copy copies files into the stage's.
type Copy struct {
	From Source
	// Sources are absolute clean paths in From, with the wildcards of path.Match ("**" is not special). A wildcard that
	// matches nothing copies nothing; a plain path must exist. A folder's content is copied, not the folder. Symbolic
	// links on the way are followed inside From.
	Sources []string
	// Remotes are what ADD fetches, among the Sources.
	Remotes []Remote
	// Parents take the place of Sources under --parents.
	Parents []Parent
	// Exclude are patterns, as in an ignore file, of what is left out below each source (--exclude).
	Exclude []string
	// Inline are files to copy after the Sources; Name has no slash.
	Inline []InlineFile
	// Dest is absolute and clean. Missing parents are made, 0755 and owned as Chown says.
	Dest string
	// DestIsDir says that Dest was written with a slash, or a dot, at its end: it is a folder, made if missing. Else it
	// is a folder only if there is one; several sources then overwrite each other.
	DestIsDir bool
	Chown     string // "", or user[:group], names or numbers; names are those of the stage's /etc/passwd and group
	Chmod     string // "", octal, or symbolic as chmod(1)
	// Extract unpacks sources that are tar archives, compressed or not (ADD).
	Extract bool
	// Link makes the layer independent of the files below (--link): Dest is made of folders of its own, links below are
	// not followed, and the layer stays the same on another base. Chown has no names then.
	Link bool
}

// Parent is a source whose folders below Dir are kept (COPY --parents).
type Parent struct {
	Dir string // absolute, clean; with the wildcards of path.Match
	// Pattern is what is copied below Dir, as an ignore file's patterns match: "**" is any number of folders.
	Pattern string
	// Required says that there are no wildcards: Dir/Pattern must exist.
	Required bool
}

// Remote is a source that is fetched: a file by HTTP, or a commit of a git repository.
type Remote struct {
	// At is how many of the Sources come before it.
	At int
	// URL is the file's, Name what it is called; "" for a repository.
	URL, Name string
	// Checksum is the file's digest; "" when any will do.
	Checksum oci.Digest
	// Extract unpacks the file, if it is a tar archive, compressed or not.
	Extract bool
	// Git is the repository's address; nil for a file.
	Git *address.Git
	// KeepGitDir copies the repository's .git, too.
	KeepGitDir bool
}

// Mkdir makes a folder and its missing parents, 0755, unless it exists (WORKDIR).
type Mkdir struct {
	Path string // absolute, clean
	// Owner owns what is made: USER at that point, or "" for root.
	Owner string
}

func (*Run) op()   {}
func (*Copy) op()  {}
func (*Mkdir) op() {}
