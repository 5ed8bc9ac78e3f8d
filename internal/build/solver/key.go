package solver

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
)

// keyVersion changes when the same operation would leave something else than an earlier slipway did.
const keyVersion = "slipway-1"

// keyed is what the key of an operation is taken over. Everything that determines the layer is in it, and nothing else:
// no path of this machine, no time, no secret.
type keyed struct {
	Version     string
	Parent      oci.Digest // the key of the state below
	Op          string
	Def         any                `json:",omitempty"`
	Content     string             `json:",omitempty"` // of what is copied: its digest, or the key it will have
	Shown       []string           `json:",omitempty"` // of what is mounted, the same
	Fetched     []string           `json:",omitempty"` // of what is fetched
	Platform    string             `json:",omitempty"`
	Compression *layer.Compression `json:",omitempty"`
	Format      string             `json:",omitempty"`
	Epoch       *int64             `json:",omitempty"` // the operation's date, see dateOps
	Hosts       []Host             `json:",omitempty"`
	Hostname    string             `json:",omitempty"` // unless it is the usual one
}

func (b *builder) newKey(k keyed) (oci.Digest, error) {
	k.Version = keyVersion
	k.Format = formatKey(b.req.Format)
	if b.req.Compression != (layer.Compression{}) {
		k.Compression = &b.req.Compression
	}
	data, err := json.Marshal(k)
	if err != nil {
		return "", fmt.Errorf("key of %s: %w", k.Op, err)
	}
	key := digest.FromBytes(data)
	if b.parts != nil {
		b.parts[key] = data
	}
	return key, nil
}

// computeKeys gives every operation of the plan its key, before anything runs.
func (b *builder) computeKeys(ctx context.Context) error {
	b.dateOps()
	for _, s := range b.graph.Stages { // each after what it needs
		keys := make([]oci.Digest, 0, len(s.Steps)+1)
		base, err := b.baseKey(s)
		if err != nil {
			return err
		}
		keys = append(keys, base)
		for _, st := range s.Steps {
			parent := keys[len(keys)-1]
			key := parent
			if st.Op != nil {
				if key, err = b.stateKey(ctx, s, st, parent); err != nil {
					return b.at(st, err)
				}
			}
			keys = append(keys, key)
		}
		b.keys[s] = keys
	}
	return nil
}

// finalKey is the key of everything in a stage.
func (b *builder) finalKey(s *plan.Stage) oci.Digest {
	keys := b.keys[s]
	return keys[len(keys)-1]
}

func (b *builder) baseKey(s *plan.Stage) (oci.Digest, error) {
	switch s.Base.Kind {
	case plan.FromStage:
		return b.finalKey(s.Base.Stage), nil
	case plan.FromImage:
		return s.Base.Image.Digest, nil
	default:
		return b.newKey(keyed{Op: "scratch"})
	}
}

func (b *builder) opKey(ctx context.Context, s *plan.Stage, st *plan.Step, parent oci.Digest) (oci.Digest, error) {
	switch op := st.Op.(type) {
	case *plan.Run:
		shown, err := b.shown(op)
		if err != nil {
			return "", err
		}
		return b.runKey(op, oci.FormatPlatform(s.Platform), parent, shown)
	case *plan.Mkdir:
		return b.newKey(keyed{Parent: parent, Op: "mkdir", Def: *op, Epoch: b.dateKey(op)})
	case *plan.Copy:
		content, err := b.sourceKey(ctx, op)
		if err != nil {
			return "", err
		}
		return b.copyKey(op, parent, content)
	default:
		return "", bug("operation %T", st.Op)
	}
}

// copyKey is the key of a COPY of known content. Where the content comes from is not part of it: an equal file from
// another stage is as good.
func (b *builder) copyKey(op *plan.Copy, parent oci.Digest, content string) (oci.Digest, error) {
	def := *op
	def.From, def.Remotes = plan.Source{}, nil
	return b.newKey(keyed{Parent: parent, Op: "copy", Def: def, Content: content, Fetched: b.fetchedKeys(op), Epoch: b.dateKey(op)})
}

// sourceKey stands for what a COPY reads: the digest of the context's files, or the key of the state they will be
// taken from.
func (b *builder) sourceKey(_ context.Context, op *plan.Copy) (string, error) {
	switch op.From.Kind {
	case plan.FromStage:
		return "stage " + b.finalKey(op.From.Stage).String(), nil
	case plan.FromImage:
		return "image " + op.From.Image.Digest.String(), nil
	case plan.FromContext:
		return b.readKey(reads(op)[0])
	default:
		return contentKey(tree.Empty{}, sources(op), tree.Plain{})
	}
}

// contentKey is the digest of what a COPY or a mount reads from a tree.
func contentKey(t tree.Tree, from []tree.Source, sums tree.Sums) (string, error) {
	if len(from) == 0 {
		return "", nil
	}
	sum, err := tree.Digest(t, from, sums)
	if err != nil {
		return "", err
	}
	return "content " + hex.EncodeToString(sum[:]), nil
}

// chain is the chainID of a state with one more layer (OCI image-spec config.md §Layer ChainID).
func chain(below, diffID oci.Digest) oci.Digest {
	if below == "" {
		return diffID
	}
	return digest.FromString(below.String() + " " + diffID.String())
}

// created is the time that all results of this build bear.
func (b *builder) created() time.Time {
	if b.req.Epoch != nil {
		return b.req.Epoch.UTC()
	}
	return b.began.UTC()
}
