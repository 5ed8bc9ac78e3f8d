package local

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/pipeline"
)

// ThisMachine says what this machine has: processors this process may use, memory, and the space that is free where
// dir lies.
func ThisMachine(dir string) (pipeline.Machine, error) {
	memory, err := totalMemory("/proc/meminfo")
	if err != nil {
		return pipeline.Machine{}, fmt.Errorf("read the machine's memory: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return pipeline.Machine{}, fmt.Errorf("read the free space of %s: %w", dir, err)
	}
	return pipeline.Machine{
		CPUs:   float64(runtime.NumCPU()),
		Memory: memory,
		Disk:   int64(disk.Bavail) * disk.Bsize,
	}, nil
}

// totalMemory reads MemTotal, in bytes.
func totalMemory(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			return n << 10, err
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("%s has no MemTotal", path)
}
