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
	if n := zeros(data); n >= holeBytes {
		s.roll(data[:min(n, 2*window)]) // more of the same changes nothing
		return n
	}
	for i := 0; i < len(data); {
		if data[i] == 0 {
			n := zeros(data[i:])
			if n >= holeBytes {
				return i
			}
			if cut := s.roll(data[i : i+n]); cut > 0 {
				return i + cut
			}
			i += n
			continue
		}
		n := 1
		for i+n < len(data) && data[i+n] != 0 {
			n++
		}
		if cut := s.roll(data[i : i+n]); cut > 0 {
			return i + cut
		}
		i += n
	}
	return len(data)
}

// roll takes data into the sum, up to where it says to cut: that many bytes, or 0 when it does not.
func (s *splitter) roll(data []byte) int {
	s1, s2, at := s.s1, s.s2, s.at
	for i, c := range data {
		p := &s.last[at&(window-1)]
		drop := uint32(*p)
		*p = c
		s1 += uint32(c) - drop
		s2 += s1 - window*(drop+charOffset)
		at++
		if s2&splitMask == splitMask {
			s.s1, s.s2, s.at = s1, s2, at&(window-1)
			return i + 1
		}
	}
	s.s1, s.s2, s.at = s1, s2, at&(window-1)
	return 0
}

// zeros is how many zeros data begins with.
func zeros(data []byte) int {
	for i, c := range data {
		if c != 0 {
			return i
		}
	}
	return len(data)
}
