package ext4

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"slipway/internal/errs"
)

// xattr is an extended attribute. Its name begins with what index stands for.
type xattr struct {
	index byte
	name  string
	value string
}

// Kinds of extended attributes that a file system can have, by number.
const (
	kindUser       = 1
	kindACL        = 2
	kindDefaultACL = 3
	kindTrusted    = 4
	kindSecurity   = 6
)

// kinds are the prefixes of names. Those of access control lists are the whole name.
func kinds() map[byte]string {
	return map[byte]string{
		kindUser: "user.", kindACL: "system.posix_acl_access", kindDefaultACL: "system.posix_acl_default", kindTrusted: "trusted.",
		kindSecurity: "security.",
	}
}

// newXattr returns an attribute. ok is false if Linux has none of that name, or the overlay obeys it: a stranger's layer
// must not steer the overlay that the file system is mounted below.
func newXattr(key, value string) (x xattr, ok bool, err error) {
	if strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.") {
		return x, false, nil
	}
	for index, prefix := range kinds() {
		name, has := strings.CutPrefix(key, prefix)
		acl := index == kindACL || index == kindDefaultACL
		if !has || acl != (name == "") {
			continue
		}
		if len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
			return x, false, fmt.Errorf("extended attribute %q: %w", key, errs.Corrupt)
		}
		if acl {
			if value, err = packACL(value); err != nil {
				return x, false, fmt.Errorf("%s: %w", key, err)
			}
		}
		return xattr{index: index, name: name, value: value}, true, nil
	}
	return x, false, nil
}

// key returns the name and the value as programs see them.
func (x *xattr) key() (name, value string, err error) {
	name, value = kinds()[x.index]+x.name, x.value
	if x.index == kindACL || x.index == kindDefaultACL {
		value, err = unpackACL(value)
	}
	return name, value, err
}

// sortXattrs puts attributes in the order that the kernel looks for them in.
func sortXattrs(list []xattr) {
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
}

func (x *xattr) entrySize() int { return (16 + len(x.name) + 3) &^ 3 }
func (x *xattr) valueSize() int { return (len(x.value) + 3) &^ 3 }

// xattrSpace returns how many bytes attributes take, with the zeros that end them.
func xattrSpace(list []xattr) int {
	n := 4
	for i := range list {
		n += list[i].entrySize() + list[i].valueSize()
	}
	return n
}

// Where attributes fit.
const (
	inodeXattrs = inodeSize - xattrStart - 4
	blockXattrs = BlockSize - xattrHeader
)

// encodeXattrs writes attributes to b, which is zero: entries at its beginning, values at its end. Places of values are
// counted from skip bytes before b.
func encodeXattrs(b []byte, skip int, list []xattr) {
	pos, end := 0, len(b)
	for i := range list {
		x := &list[i]
		e := b[pos:]
		pos += x.entrySize()
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= x.valueSize()
			le.PutUint16(e[2:], uint16(end+skip))
			copy(b[end:], x.value)
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		le.PutUint32(e[12:], x.hash())
		copy(e[16:], x.name)
	}
}

// hash is the kernel's checksum of an attribute.
func (x *xattr) hash() uint32 {
	h := uint32(0)
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	value := append([]byte(x.value), make([]byte, x.valueSize()-len(x.value))...)
	for ; len(value) > 0; value = value[4:] {
		h = h<<16 ^ h>>16 ^ le.Uint32(value)
	}
	return h
}

// encodeXattrBlock returns the block that has the attributes of an inode.
func encodeXattrBlock(list []xattr) []byte {
	b := make([]byte, BlockSize)
	le.PutUint32(b[0:], xattrMagic)
	le.PutUint32(b[4:], 1) // inodes that use it
	le.PutUint32(b[8:], 1) // blocks
	h := uint32(0)
	for i := range list {
		h = h<<16 ^ h>>16 ^ list[i].hash()
	}
	le.PutUint32(b[12:], h)
	encodeXattrs(b[xattrHeader:], xattrHeader, list)
	return b
}

// decodeXattrs reads what encodeXattrs wrote.
func decodeXattrs(b []byte, skip int) ([]xattr, error) {
	var list []xattr
	for e := b; ; {
		if len(e) < 4 {
			return nil, errXattrs
		}
		if le.Uint32(e) == 0 {
			return list, nil
		}
		if len(e) < 16 {
			return nil, errXattrs
		}
		x := xattr{index: e[1]}
		size, at, length := x.entrySize()+int(e[0]), int(le.Uint16(e[2:]))-skip, le.Uint32(e[8:])
		size = (size + 3) &^ 3
		if size > len(e) || 16+int(e[0]) > len(e) || kinds()[x.index] == "" || le.Uint32(e[4:]) != 0 {
			return nil, errXattrs
		}
		x.name = string(e[16 : 16+int(e[0])])
		if length > 0 {
			if at < 0 || at > len(b) || int64(length) > int64(len(b)-at) {
				return nil, errXattrs
			}
			x.value = string(b[at : at+int(length)])
		}
		list = append(list, x)
		e = e[size:]
	}
}

var errXattrs = errs.Mark(errors.New("extended attributes are damaged"), errs.Corrupt)

// Access control lists: programs see entries of a tag, permissions and an id; on disk only users and groups have ids.
const (
	aclVersion     = 2
	aclDiskVersion = 1
	aclUser        = 0x02
	aclGroup       = 0x08
	aclNone        = 0xffffffff
)

var errACL = errs.Mark(errors.New("access control list is damaged"), errs.Corrupt)

func packACL(value string) (string, error) {
	v := []byte(value)
	if len(v) < 4 || len(v)%8 != 4 || le.Uint32(v) != aclVersion {
		return "", errACL
	}
	out := binary.LittleEndian.AppendUint32(nil, aclDiskVersion)
	for e := v[4:]; len(e) > 0; e = e[8:] {
		out = append(out, e[:4]...)
		if tag := le.Uint16(e); tag == aclUser || tag == aclGroup {
			out = append(out, e[4:8]...)
		}
	}
	return string(out), nil
}

func unpackACL(value string) (string, error) {
	v := []byte(value)
	if len(v) < 4 || le.Uint32(v) != aclDiskVersion {
		return "", errACL
	}
	out := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for e := v[4:]; len(e) > 0; {
		if len(e) < 4 {
			return "", errACL
		}
		out = append(out, e[:4]...)
		tag := le.Uint16(e)
		if e = e[4:]; tag != aclUser && tag != aclGroup {
			out = binary.LittleEndian.AppendUint32(out, aclNone)
			continue
		}
		if len(e) < 4 {
			return "", errACL
		}
		out = append(out, e[:4]...)
		e = e[4:]
	}
	return string(out), nil
}
