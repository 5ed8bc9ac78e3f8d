package compile

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// span says that the values from first up to the next span's first are judged by code.
type span struct {
	first uint32
	code  []bpf.Instruction
}

// spans covers the numbers of one table: gaps are denied, what lies above the last known call does not exist.
func spans(calls map[uint32][]bpf.Instruction, bit, denied uint32) []span {
	gap := []bpf.Instruction{bpf.RetConstant{Val: denied}}
	above := []bpf.Instruction{bpf.RetConstant{Val: retErrno | uint32(unix.ENOSYS)}}
	return fill(calls, bit, gap, above)
}

// fill turns single values into spans in order, joining neighbours that are judged alike.
func fill(values map[uint32][]bpf.Instruction, bit uint32, gap, above []bpf.Instruction) []span {
	out := []span{{first: bit, code: gap}}
	add := func(first uint32, code []bpf.Instruction) {
		last := &out[len(out)-1]
		switch {
		case slices.Equal(last.code, code):
		case last.first == first:
			last.code = code
		default:
			out = append(out, span{first: first, code: code})
		}
	}
	next := uint64(bit)
	for _, v := range slices.Sorted(maps.Keys(values)) {
		if uint64(v|bit) > next {
			add(uint32(next), gap)
		}
		add(v|bit, values[v])
		next = uint64(v|bit) + 1
	}
	if next < 1<<32 {
		add(uint32(next), above)
	}
	return out
}

// search is code that finds the span of the value in the accumulator by halving, and judges it.
//
// The kernel translates a filter for every process that loads it, which takes 0.2 µs an instruction. So equal verdicts
// are written once, behind the tree, and jumped to.
func search(ranges []span) ([]bpf.Instruction, error) {
	t := tree{}
	t.node(ranges)
	return t.link()
}

// tree is a search under construction. Its jumps name spans' verdicts (from 0) or nodes (below 0) until they are linked.
type tree struct {
	jumps    []jump
	verdicts [][]bpf.Instruction
}

type jump struct {
	val         uint32
	less, other int // where to go
}

// node adds the code for ranges, and returns how to name it.
func (t *tree) node(ranges []span) int {
	if len(ranges) == 1 {
		return t.verdict(ranges[0].code)
	}
	half := len(ranges) / 2
	at := len(t.jumps)
	t.jumps = append(t.jumps, jump{val: ranges[half].first})
	t.jumps[at].less = t.node(ranges[:half])
	t.jumps[at].other = t.node(ranges[half:])
	return -at - 1
}

func (t *tree) verdict(code []bpf.Instruction) int {
	i := slices.IndexFunc(t.verdicts, func(v []bpf.Instruction) bool { return slices.Equal(v, code) })
	if i < 0 {
		i = len(t.verdicts)
		t.verdicts = append(t.verdicts, code)
	}
	return i
}

// link lays out nodes and verdicts and resolves the jumps, which reach 255 instructions.
func (t *tree) link() ([]bpf.Instruction, error) {
	if len(t.jumps) == 0 {
		return t.verdicts[0], nil
	}
	place := make([]int, len(t.verdicts))
	end := len(t.jumps)
	for i, v := range t.verdicts {
		place[i] = end
		end += len(v)
	}
	var code []bpf.Instruction
	for at, j := range t.jumps {
		var skip [2]uint8
		for i, to := range []int{j.less, j.other} {
			target := -to - 1
			if to >= 0 {
				target = place[to]
			}
			if target-at-1 > 255 {
				return nil, errors.New("the program is too large for its jumps")
			}
			skip[i] = uint8(target - at - 1)
		}
		code = append(code, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: j.val, SkipTrue: skip[0], SkipFalse: skip[1]})
	}
	return append(code, slices.Concat(t.verdicts...)...), nil
}

// unless jumps over body unless the accumulator compares. A conditional jump reaches 255 instructions only.
func unless(cond bpf.JumpTest, val uint32, body []bpf.Instruction) []bpf.Instruction {
	if len(body) <= 255 {
		return []bpf.Instruction{bpf.JumpIf{Cond: cond, Val: val, SkipFalse: uint8(len(body))}}
	}
	return []bpf.Instruction{
		bpf.JumpIf{Cond: cond, Val: val, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(body))},
	}
}
