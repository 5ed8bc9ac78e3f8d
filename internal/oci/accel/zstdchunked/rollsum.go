package zstdchunked

const (
	// splitBits is how many bits of the sum say where content is cut: after 64 KiB, on average.
	splitBits = 16
	splitMask = 1<<splitBits - 1
	// holeBytes is the shortest run of zeros that is a piece of its own.
	holeBytes  = 1 << 10
	window     = 64
	charOffset = 31
)

// splitter cuts content where the sum over the last 64 bytes says so, and around long runs of zeros: the same content
// gives the same pieces wherever it is in a file. The sum is that of bup's bupsplit.c, and the rules are those of other
// writers of the format, so that pieces of their layers are found in ours.
type splitter struct {
	s1, s2 uint32
	last   [window]byte
	at     int
}

func newSplitter() *splitter {
	const s1, s2 uint32 = window * charOffset, window * (window - 1) * charOffset
	return &splitter{s1: s1, s2: s2}
}

// Split implements chunk.Splitter.
func (s *splitter) Split(data []byte) int {
	hole, size := findHole(data)
	if size > 0 && hole == 0 {
		s.roll(data[:min(size, 2*window)]) // more of the same changes nothing
		return size
	}
	if size > 0 {
		data = data[:hole]
	}
	if cut := s.roll(data); cut > 0 {
		return cut
	}
	return len(data)
}

// findHole finds the first run of zeros that is a piece of its own; its size is 0 when there is none. Such a run has a
// byte in every stretch of its least length, so that it is enough to look at one byte of each.
func findHole(data []byte) (start, size int) {
	for at := holeBytes - 1; at < len(data); at += holeBytes {
		if data[at] != 0 {
			continue
		}
		start, end := at, at
		for start > 0 && data[start-1] == 0 {
			start--
		}
		for end < len(data) && data[end] == 0 {
			end++
		}
		if end-start >= holeBytes {
			return start, end - start
		}
	}
	return 0, 0
}

// roll takes data into the sum, up to where it says to cut: that many bytes, or 0 when it does not. What drops out of
// the window is at first what was there before, and then data itself.
func (s *splitter) roll(data []byte) int {
	s1, s2 := s.s1, s.s2
	for i, c := range data[:min(len(data), window)] {
		p := &s.last[(s.at+i)&(window-1)]
		drop := uint32(*p)
		*p = c
		s1 += uint32(c) - drop
		s2 += s1 - window*(drop+charOffset)
		if s2&splitMask == splitMask {
			s.s1, s.s2, s.at = s1, s2, (s.at+i+1)&(window-1)
			return i + 1
		}
	}
	n := len(data)
	if n <= window {
		s.s1, s.s2, s.at = s1, s2, (s.at+n)&(window-1)
		return 0
	}
	cut := 0
	old := data[:n-window]
	for i, c := range data[window:] {
		drop := uint32(old[i])
		s1 += uint32(c) - drop
		s2 += s1 - window*(drop+charOffset)
		if s2&splitMask == splitMask {
			cut = window + i + 1
			break
		}
	}
	if cut > 0 {
		n = cut
	}
	s.s1, s.s2, s.at = s1, s2, 0
	copy(s.last[:], data[n-window:n])
	return cut
}
