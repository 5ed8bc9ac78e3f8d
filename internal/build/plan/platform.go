package plan

import (
	"errors"
	"fmt"
	"strings"

	"slipway/internal/oci"
)

// parsePlatform reads os/arch[/variant], or an os or arch alone that the builder's platform completes, in the
// spellings that containerd knows.
func parsePlatform(s string, builder oci.Platform) (oci.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) > 3 || !validParts(parts) {
		return oci.Platform{}, fmt.Errorf("platform %q is not os/arch or os/arch/variant", s)
	}
	if len(parts) == 1 {
		return parseHalf(parts[0], builder)
	}
	p := oci.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return normalizePlatform(p), nil
}

func parseHalf(s string, builder oci.Platform) (oci.Platform, error) {
	if p := normalizePlatform(oci.Platform{OS: s}); knownOS(p.OS) {
		p.Architecture, p.Variant = builder.Architecture, builder.Variant
		return normalizePlatform(p), nil
	}
	if p := normalizePlatform(oci.Platform{OS: builder.OS, Architecture: s}); knownArch(p.Architecture) {
		return p, nil
	}
	return oci.Platform{}, fmt.Errorf("platform %q is no operating system and no architecture that is known", s)
}

func validParts(parts []string) bool {
	for _, p := range parts {
		if p == "" || strings.ContainsFunc(p, func(r rune) bool {
			return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r))
		}) {
			return false
		}
	}
	return true
}

func knownOS(s string) bool {
	switch s {
	case "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
		"openbsd", "plan9", "solaris", "windows", "zos":
		return true
	}
	return false
}

func knownArch(s string) bool {
	switch s {
	case "386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "loong64", "mips", "mipsle", "mips64", "mips64le", "riscv64",
		"s390x", "wasm":
		return true
	}
	return false
}

// normalizePlatform gives every spelling of a platform one form.
func normalizePlatform(p oci.Platform) oci.Platform {
	p.OS = strings.ToLower(p.OS)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	p.Architecture, p.Variant = strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "i386":
		p.Architecture, p.Variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		p.Architecture = "amd64"
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "aarch64", "arm64":
		p.Architecture = "arm64"
		switch p.Variant {
		case "8", "v8", "v8.0":
			p.Variant = ""
		case "9", "9.0", "v9.0":
			p.Variant = "v9"
		}
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "arm":
		switch p.Variant {
		case "", "7":
			p.Variant = "v7"
		case "5", "6", "8":
			p.Variant = "v" + p.Variant
		}
	}
	return p
}

var errNotLinux = errors.New("slipway builds linux images only")

// signalKnown says whether STOPSIGNAL accepts a name or number.
func signalKnown(s string) bool {
	if n := strings.TrimLeft(s, "0123456789"); n == "" && s != "" {
		return strings.Trim(s, "0") != ""
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	switch name {
	case "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
		"PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
		"USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX":
		return true
	}
	if n, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		return oneTo(n, 15)
	}
	if n, ok := strings.CutPrefix(name, "RTMAX-"); ok {
		return oneTo(n, 14)
	}
	return false
}

// oneTo says whether s is a number from 1 to limit written without zeros before it.
func oneTo(s string, limit int) bool {
	for i := 1; i <= limit; i++ {
		if s == fmt.Sprint(i) {
			return true
		}
	}
	return false
}
