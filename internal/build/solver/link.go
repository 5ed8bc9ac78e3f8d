package solver

import (
	"context"

	"slipway/internal/build/plan"
	"slipway/internal/oci"
)

// A COPY --link makes its layer as if nothing were below: on an empty file system, under a key without a parent. So the
// layer is the same on another base, and answers there too.

// isLinked says whether an operation is such a COPY.
func isLinked(op plan.Op) bool {
	c, ok := op.(*plan.Copy)
	return ok && c.Link
}

// under is the stack that an operation stands on: that of its stage, or none.
func under(op plan.Op, st *stack) *stack {
	if isLinked(op) {
		return &stack{}
	}
	return st
}

// identityUnder is the identity of that stack.
func identityUnder(op plan.Op, chain oci.Digest) oci.Digest {
	if isLinked(op) {
		return ""
	}
	return chain
}

// stateKey is the key of the state that an operation leaves on the state of parent: the operation's own, but for a
// linked one, whose key says nothing of what is below.
func (b *builder) stateKey(ctx context.Context, s *plan.Stage, st *plan.Step, parent oci.Digest) (oci.Digest, error) {
	if !isLinked(st.Op) {
		return b.opKey(ctx, s, st, parent)
	}
	key, err := b.opKey(ctx, s, st, "")
	if err != nil {
		return "", err
	}
	b.linked[st] = key
	return b.newKey(keyed{Parent: parent, Op: "link", Content: key.String()})
}

// keyOf is the key of step i's operation, under which its result is remembered.
func (b *builder) keyOf(s *plan.Stage, i int) oci.Digest {
	if key, ok := b.linked[s.Steps[i]]; ok {
		return key
	}
	return b.keys[s][i+1]
}

// parentOf is the key of the state that step i's operation depends on.
func (b *builder) parentOf(s *plan.Stage, i int) oci.Digest {
	if isLinked(s.Steps[i].Op) {
		return ""
	}
	return b.keys[s][i]
}
