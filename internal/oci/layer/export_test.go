package layer

import (
	"encoding/binary"
	"hash/crc32"
)

// WithChecksum makes the beginning of an encoded index of fuzzed bytes, so that fuzzing gets past the checksum.
func WithChecksum(data []byte) []byte {
	if n := len(data) - 4; n >= 0 {
		data = data[:n]
	}
	return binary.LittleEndian.AppendUint32(data[:len(data):len(data)], crc32.ChecksumIEEE(data))
}
