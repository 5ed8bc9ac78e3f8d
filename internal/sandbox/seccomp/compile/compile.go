// Package compile turns Docker's seccomp profile into a classic BPF program, in pure Go.
//
// It runs when the filter is generated and in tests, never in the binary: name tables of four instruction sets and a
// profile of five hundred names would cost every start of slipway more than the filter costs a sandbox.
//
// A program answers for one machine: the native instruction set and those the kernel runs beside it (i386 and x32 on
// amd64, arm on arm64). System call numbers become a balanced tree of ranges, so a call is judged in about eight
// comparisons; libseccomp's default output walks a list of four hundred.
//
// Two answers are not in the profile. A number above the highest that the profile knows gets ENOSYS and not EPERM, as
// with runc: a libc that tries a new call must fall back to the old one. An unknown instruction set kills the process.
package compile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// Actions, see seccomp(2).
const (
	retKillProcess = uint32(unix.SECCOMP_RET_KILL_PROCESS)
	retAllow       = uint32(unix.SECCOMP_RET_ALLOW)
	retErrno       = uint32(unix.SECCOMP_RET_ERRNO)
)

// Arch is one system call table of a machine.
type Arch struct {
	Name  string         // as elastic's table calls it, for errors
	Audit uint32         // AUDIT_ARCH_* in seccomp_data.arch
	Calls map[int]string // number, without Bit, to name. x32 has some names twice
	Bit   uint32         // set in every number: __X32_SYSCALL_BIT. 0: the plain table of Audit
}

// Program compiles a flat profile for arches. Only what Docker's profile uses can be expressed: allow or errno, no
// condition, or conditions of which each looks at one argument; anything else is an error, not an approximation.
func Program(profile *specs.LinuxSeccomp, arches []Arch) ([]bpf.RawInstruction, error) {
	var sections [][]bpf.Instruction
	for _, group := range byAudit(arches) {
		code, err := section(profile, group)
		if err != nil {
			return nil, err
		}
		sections = append(sections, code)
	}
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offArch, Size: 4}}
	for i, group := range byAudit(arches) {
		prog = append(prog, unless(bpf.JumpEqual, group[0].Audit, sections[i])...)
		prog = append(prog, sections[i]...)
	}
	prog = append(prog, bpf.RetConstant{Val: retKillProcess})
	return bpf.Assemble(prog)
}

// byAudit groups the tables that share an audit number, the plain one first.
func byAudit(arches []Arch) [][]Arch {
	var groups [][]Arch
	for _, a := range arches {
		i := slices.IndexFunc(groups, func(g []Arch) bool { return g[0].Audit == a.Audit })
		if i < 0 {
			groups = append(groups, []Arch{a})
			continue
		}
		groups[i] = append(groups[i], a)
		slices.SortFunc(groups[i], func(a, b Arch) int { return cmp.Compare(a.Bit, b.Bit) })
	}
	return groups
}

// section is the code for every number of one audit architecture; it always returns.
func section(profile *specs.LinuxSeccomp, tables []Arch) ([]bpf.Instruction, error) {
	denied, err := answer(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	code := []bpf.Instruction{bpf.LoadAbsolute{Off: offNumber, Size: 4}}
	for i, table := range tables {
		calls, err := verdicts(profile, table, denied)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", table.Name, err)
		}
		judge, err := search(spans(calls, table.Bit, denied))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", table.Name, err)
		}
		if i+1 < len(tables) {
			code = append(code, unless(bpf.JumpLessThan, tables[i+1].Bit, judge)...)
		}
		code = append(code, judge...)
	}
	return code, nil
}

// verdicts maps each number that the profile names to the code that judges it.
func verdicts(profile *specs.LinuxSeccomp, table Arch, denied uint32) (map[uint32][]bpf.Instruction, error) {
	rules := map[string][]specs.LinuxSyscall{}
	for _, rule := range profile.Syscalls {
		for _, name := range rule.Names {
			rules[name] = append(rules[name], rule)
		}
	}
	calls := make(map[uint32][]bpf.Instruction, len(table.Calls))
	for nr, name := range table.Calls {
		list := rules[name]
		if len(list) == 0 {
			continue
		}
		code, err := verdict(list, denied)
		if err != nil {
			return nil, fmt.Errorf("system call %s: %w", name, err)
		}
		calls[uint32(nr)] = code
	}
	return calls, nil
}

// verdict is the code for one call. As in libseccomp a rule without conditions decides alone.
func verdict(rules []specs.LinuxSyscall, denied uint32) ([]bpf.Instruction, error) {
	for _, rule := range rules {
		if len(rule.Args) == 0 {
			ret, err := answer(rule.Action, rule.ErrnoRet)
			return []bpf.Instruction{bpf.RetConstant{Val: ret}}, err
		}
	}
	first := rules[0]
	allowed, err := answer(first.Action, first.ErrnoRet)
	if err != nil {
		return nil, err
	}
	var conds []specs.LinuxSeccompArg
	for _, rule := range rules {
		if len(rule.Args) != 1 || rule.Action != first.Action || rule.Args[0].Index != first.Args[0].Index {
			return nil, errors.New("conditions on several arguments or with several actions")
		}
		conds = append(conds, rule.Args[0])
	}
	if len(conds) == 1 && conds[0].Op == specs.OpMaskedEqual {
		return masked(conds[0], allowed, denied), nil
	}
	return oneOf(conds, allowed, denied)
}

// answer is the value that a filter returns for an action.
func answer(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch {
	case action == specs.ActAllow:
		return retAllow, nil
	case action == specs.ActErrno && errno != nil:
		return retErrno | uint32(*errno), nil
	case action == specs.ActErrno:
		return retErrno | uint32(unix.EPERM), nil
	}
	return 0, fmt.Errorf("action %s", action)
}

// masked allows a call when arg & Value == ValueTwo, over both halves of the 64-bit argument.
func masked(c specs.LinuxSeccompArg, allowed, denied uint32) []bpf.Instruction {
	low, high := argument(c.Index)
	return []bpf.Instruction{
		low,
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(c.Value)},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(c.ValueTwo), SkipTrue: 4},
		high,
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(c.Value >> 32)},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(c.ValueTwo >> 32), SkipTrue: 1},
		bpf.RetConstant{Val: allowed},
		bpf.RetConstant{Val: denied},
	}
}

// oneOf allows a call when its argument is one of some 32-bit values or below one.
func oneOf(conds []specs.LinuxSeccompArg, allowed, denied uint32) ([]bpf.Instruction, error) {
	yes, no := []bpf.Instruction{bpf.RetConstant{Val: allowed}}, []bpf.Instruction{bpf.RetConstant{Val: denied}}
	below := uint64(0)
	values := map[uint32][]bpf.Instruction{}
	for _, c := range conds {
		switch {
		case c.Value > 1<<32-1:
			return nil, fmt.Errorf("value %#x is wider than 32 bits", c.Value)
		case c.Op == specs.OpEqualTo:
			values[uint32(c.Value)] = yes
		case c.Op == specs.OpLessThan:
			below = max(below, c.Value)
		default:
			return nil, fmt.Errorf("operator %s", c.Op)
		}
	}
	for v := range below {
		values[uint32(v)] = yes
	}
	low, high := argument(conds[0].Index)
	code := []bpf.Instruction{high, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, no[0], low}
	tree, err := search(fill(values, 0, no, no))
	return append(code, tree...), err
}

// argument loads the halves of one argument on a little-endian machine.
func argument(index uint) (low, high bpf.Instruction) {
	off := uint32(offArgs + 8*index)
	return bpf.LoadAbsolute{Off: off, Size: 4}, bpf.LoadAbsolute{Off: off + 4, Size: 4}
}
