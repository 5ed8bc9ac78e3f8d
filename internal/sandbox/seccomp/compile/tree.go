package compile

import (
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

// search finds the span of the value in the accumulator by halving.
func search(ranges []span) []bpf.Instruction {
	if len(ranges) == 1 {
		return ranges[0].code
	}
	half := len(ranges) / 2
	below, from := search(ranges[:half]), search(ranges[half:])
	code := unless(bpf.JumpLessThan, ranges[half].first, below)
	return append(append(code, below...), from...)
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
