package ext4_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci/accel/overlaybd/ext4"
	"slipway/internal/oci/layer"
)

func TestMerge(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		layers [][]entry
		want   []string
	}{
		"nothing": {[][]entry{{}}, nil},
		"kinds of files": {
			[][]entry{{
				dir("d"), file("d/f", "x"), file("empty", ""), symlink("s", "d/f"), link("hard", "d/f"),
				{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
				{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 259, Devminor: 300_000}},
				{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}},
			}},
			[]string{"d/", `d/f "x"`, "disk D--------- 259:300000", `empty ""`, "hard = d/f", "null Dc--------- 1:3", "pipe p--------- 0:0", "s -> d/f"},
		},
		"a layer on another": {
			[][]entry{{dir("d"), file("d/a", "1"), file("d/b", "1")}, {file("d/b", "22"), file("d/c", "2")}},
			[]string{"d/", `d/a "1"`, `d/b "22"`, `d/c "2"`},
		},
		"whiteouts": {
			[][]entry{{file("a", "1"), dir("d/e"), file("d/e/f", "1"), file("b", "1")}, {whiteout("a"), whiteout("d"), whiteout("not-there")}},
			[]string{`b "1"`},
		},
		"a whiteout is about the layers below, whatever the order": {
			[][]entry{
				{file("a", "1"), dir("d"), file("d/old", "1")},
				{file("a", "2"), whiteout("a"), dir("d"), file("d/new", "2"), whiteout("d")},
			},
			[]string{`a "2"`, "d/", `d/new "2"`},
		},
		"opaque directories": {
			[][]entry{
				{dir("d/e"), file("d/e/old", "1"), file("d/old", "1"), dir("gone"), file("gone/f", "1")},
				{file("d/e/new", "2"), opaque("d"), file("d/new", "2"), opaque("gone")},
			},
			[]string{"d/", "d/e/", `d/e/new "2"`, `d/new "2"`, "gone/"},
		},
		"a device 0:0 is a whiteout": {
			[][]entry{{file("a", "1")}, {{Header: tar.Header{Typeflag: tar.TypeChar, Name: "a"}}}},
			nil,
		},
		"what AUFS left is nothing": {[][]entry{{file(".wh..wh.plnk", ""), dir(".wh..wh.orph"), file("a", "")}}, []string{`a ""`}},
		"a directory that is listed again keeps what is in it": {
			[][]entry{{dir("d"), file("d/f", "1")}, {{Header: tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}}}},
			[]string{"d/ 700", `d/f "1"`},
		},
		"a file in place of a directory, and the other way round": {
			[][]entry{{dir("d/e"), file("d/e/f", "1"), file("f", "1")}, {file("d", "2"), dir("f"), file("f/g", "2")}},
			[]string{`d "2"`, "f/", `f/g "2"`},
		},
		"the last entry counts": {
			[][]entry{{file("a", "1"), file("a", "two"), dir("b"), file("b/x", ""), symlink("b", "a"), symlink("b", "c")}},
			[]string{`a "two"`, "b -> c"},
		},
		"another kind of file by the same name": {
			[][]entry{
				{file("a", "1"), symlink("b", strings.Repeat("long/", 50)), symlink("c", "a")},
				{symlink("a", "b"), file("b", "2"), {Header: tar.Header{Typeflag: tar.TypeFifo, Name: "c"}}},
			},
			[]string{"a -> b", `b "2"`, "c p--------- 0:0"},
		},
		"long symbolic links": {
			[][]entry{{symlink("a", strings.Repeat("x", 59)), symlink("b", strings.Repeat("x", 60)), symlink("c", strings.Repeat("y", 4095))}},
			[]string{"a -> " + strings.Repeat("x", 59), "b -> " + strings.Repeat("x", 60), "c -> " + strings.Repeat("y", 4095)},
		},
		"directories that nobody listed": {[][]entry{{file("a/b/c", "1")}}, []string{"a/", "a/b/", `a/b/c "1"`}},
		"a directory that nobody listed in place of a file below": {
			[][]entry{{file("a", "1")}, {file("a/b", "2")}}, []string{"a/", `a/b "2"`},
		},
		"names through symbolic links": {
			[][]entry{{dir("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr")}, {file("lib/x", "2"), file("abs/y", "2"), whiteout("lib/z")}},
			[]string{"abs -> /usr", "lib -> usr/lib", "usr/", "usr/lib/", `usr/lib/x "2"`, `usr/y "2"`},
		},
		"symbolic links stay inside": {
			[][]entry{{symlink("up", "../../../.."), symlink("out", "/../../etc"), file("up/x", "1"), file("out/passwd", "1")}},
			[]string{"etc/", `etc/passwd "1"`, "out -> /../../etc", "up -> ../../../..", `x "1"`},
		},
		"a directory in place of a symbolic link": {
			[][]entry{{dir("usr/lib"), symlink("lib", "usr/lib")}, {dir("lib"), file("lib/x", "2")}},
			[]string{"lib/", `lib/x "2"`, "usr/", "usr/lib/"},
		},
		"absolute names": {[][]entry{{file("/a", "1"), file("//b/../c", "1"), dir("./d/.")}}, []string{`a "1"`, `c "1"`, "d/"}},
		"hard links to files below": {
			[][]entry{{file("a", "1")}, {link("b", "a"), link("c", "b")}}, []string{`a "1"`, "b = a", "c = a"},
		},
		"a new file does not change the other names of the old": {
			[][]entry{{file("a", "1"), link("b", "a")}, {file("a", "2")}}, []string{`a "2"`, `b "1"`},
		},
		"one of several names is deleted": {
			[][]entry{{file("a", "1"), link("b", "a"), link("c", "a")}, {whiteout("a"), whiteout("c")}}, []string{`b "1"`},
		},
		"links of links": {
			[][]entry{{file("a", "1"), link("a", "a"), link("b", "a"), link("b", "a"), file("b", "2")}}, []string{`a "1"`, `b "2"`},
		},
		"a hard link in place of the directory that the file is in": {
			[][]entry{{dir("d"), file("d/f", "1")}, {link("d", "d/f")}}, []string{`d "1"`},
		},
		"attributes": {
			[][]entry{{
				{tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{
					"SCHILY.xattr.user.one": "1", "SCHILY.xattr.security.capability": strings.Repeat("c", 20),
					"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.com.apple.quarantine": "1",
				}}, nil},
			}},
			[]string{`a "" security.capability user.one`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var layers [][]byte
			for _, l := range tt.layers {
				layers = append(layers, pack(t, l...))
			}
			d, size := build(t, layers...)
			if diff := cmp.Diff(tt.want, describe(t, d)); diff != "" {
				t.Errorf("merged tree mismatch (-want +got):\n%s", diff)
			}
			fsck(t, d, size)
		})
	}
}

func TestHostileTars(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 256)
	for name, tt := range map[string]struct {
		kind    error
		entries []entry
	}{
		"path escape":                   {errs.Corrupt, []entry{file("../etc/passwd", "")}},
		"path escape by dots":           {errs.Corrupt, []entry{file("a/../../etc/passwd", "")}},
		"path escape of a hard link":    {errs.Corrupt, []entry{link("a", "../../etc/shadow")}},
		"hard link to nothing":          {errs.Corrupt, []entry{link("a", "b")}},
		"hard link to a directory":      {errs.Corrupt, []entry{dir("d"), link("a", "d")}},
		"hard link through a loop":      {errs.Corrupt, []entry{symlink("l", "l"), link("a", "l/b")}},
		"loop of symbolic links":        {errs.Corrupt, []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}},
		"file in a file":                {errs.Corrupt, []entry{file("a", ""), file("a/b", "")}},
		"whiteout of no name":           {errs.Corrupt, []entry{file(".wh.", "")}},
		"whiteout of the folder itself": {errs.Corrupt, []entry{file("d/.wh...", "")}},
		"root is a file":                {errs.Corrupt, []entry{file(".", "x")}},
		"long name":                     {errs.Corrupt, []entry{file(long, "")}},
		"long name of a folder":         {errs.Corrupt, []entry{file(long+"/a", "")}},
		"long path":                     {errs.Corrupt, []entry{file(strings.Repeat("a/", 2048)+"a", "")}},
		"link to nowhere":               {errs.Corrupt, []entry{symlink("a", strings.Repeat("x", 4096))}},
		"owner below 0":                 {errs.Corrupt, []entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: -1}}}},
		"device of another kernel":      {errs.Corrupt, []entry{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1 << 13}}}},
		"damaged access control list": {errs.Corrupt, []entry{
			{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": "xx"}}},
		}},
		"more attributes than fit": {errs.Limit, []entry{
			{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 5000)}}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := apply(t.Context(), &disk{}, pack(t, tt.entries...)); !errors.Is(err, tt.kind) {
				t.Errorf("error %v, want kind %v", err, tt.kind)
			}
		})
	}
}

// TestSparseFileOfAnySize: a header of a few bytes must not keep the machine busy for days.
func TestSparseFileOfAnySize(t *testing.T) {
	t.Parallel()
	data := pack(t, file("a", ""))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 1 << 50}); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t.Context(), &disk{}, append(b.Bytes(), data...)); !errors.Is(err, errs.Limit) {
		t.Errorf("error %v", err)
	}
}

func TestTruncatedTar(t *testing.T) {
	t.Parallel()
	data := pack(t, file("a", strings.Repeat("x", 5000)), file("b", "y"))
	for _, n := range []int{100, 1000, 1024 + 600, 3000} {
		if _, err := apply(t.Context(), &disk{}, data[:n]); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := apply(t.Context(), &disk{}, []byte(strings.Repeat("no tar ", 200))); !errors.Is(err, errs.Corrupt) {
		t.Errorf("no tar: %v", err)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
		"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	want := []layer.Entry{
		{Path: ".", Mode: layer.FileMode(0o41777), UID: 5, GID: 6, ModTime: stamp},
		{Path: "a", Mode: layer.FileMode(0o106755), UID: 1<<32 - 2, GID: 70_000, ModTime: time.Unix(-1_000_000_000, 1)},
		{Path: "b", Mode: layer.FileMode(0o100000), ModTime: time.Unix(1<<33, 999_999_999)},
		{Path: "c", Mode: layer.FileMode(0o100644), ModTime: stamp, Xattrs: map[string]string{"user.small": "v", "security.capability": "0123"}},
		{Path: "d", Mode: layer.FileMode(0o40755), ModTime: stamp, Xattrs: map[string]string{
			"user.big": strings.Repeat("v", 3000), "user.empty": "", "security.selinux": "s", "trusted.x": "\x00\x01", "user.zz": "1",
		}},
		{Path: "e", Mode: layer.FileMode(0o100644), ModTime: stamp, Xattrs: map[string]string{"system.posix_acl_access": acl}},
	}
	var entries []entry
	for _, e := range want {
		hdr := tar.Header{Typeflag: tar.TypeReg, Name: e.Path, Mode: int64(e.Mode.Perm()), Uid: e.UID, Gid: e.GID, ModTime: e.ModTime}
		switch {
		case e.Path == ".":
			hdr.Mode |= 0o1000
		case e.Path == "a":
			hdr.Mode |= 0o6000
		}
		if e.IsDir() {
			hdr.Typeflag = tar.TypeDir
		}
		for key, value := range e.Xattrs {
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords["SCHILY.xattr."+key] = value
		}
		entries = append(entries, entry{hdr, nil})
	}
	d, size := build(t, pack(t, entries...))
	var got []layer.Entry
	for _, f := range files(t, d) {
		got = append(got, f.Entry)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata mismatch (-want +got):\n%s", diff)
	}
	fsck(t, d, size)
}

// TestTimesThatDoNotFit become the nearest that do, as in the kernel.
func TestTimesThatDoNotFit(t *testing.T) {
	t.Parallel()
	early, late := file("early", ""), file("late", "")
	early.ModTime, late.ModTime = time.Unix(-1<<40, 0), time.Unix(1<<40, 0)
	d, _ := build(t, pack(t, early, late))
	for _, f := range files(t, d)[1:] {
		want := time.Unix(-1<<31, 0)
		if f.Path == "late" {
			want = time.Unix(1<<31-1+3<<32, 0)
		}
		if !f.ModTime.Equal(want) {
			t.Errorf("%s: %v, want %v", f.Path, f.ModTime, want)
		}
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

// fragmented has n megabytes, every other one of which is a hole.
func fragmented(n int) []byte {
	b := make([]byte, n<<20)
	_, _ = (&fragments{}).Read(b) // never fails
	return b
}

// TestContent has files around the sizes of blocks and chunks, with holes, and with more extents than an inode has.
func TestContent(t *testing.T) {
	t.Parallel()
	want := map[string][]byte{"fragments": fragmented(31), "zeros": make([]byte, 3<<20+17), "a hole at the end": append(noise(1<<20), make([]byte, 2<<20)...)}
	for _, n := range []int{1, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 5000} {
		want[fmt.Sprint(n)] = noise(n)
	}
	var entries []entry
	for name, data := range want {
		entries = append(entries, entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, data})
	}
	d, size := build(t, pack(t, entries...))
	for _, f := range files(t, d)[1:] {
		if !bytes.Equal(content(t, f), want[f.Path]) {
			t.Errorf("%s: content differs", f.Path)
		}
	}
	fsck(t, d, size)
}

// TestTreesOfExtents has more extents than a block of their tree holds, and then fewer.
func TestTreesOfExtents(t *testing.T) {
	t.Parallel()
	small := fragmented(20)
	var hdr bytes.Buffer
	w := tar.NewWriter(&hdr)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 700 << 20}); err != nil {
		t.Fatal(err)
	}
	d := &disk{}
	d.push()
	f := ext4.New([16]byte{})
	if err := f.Apply(t.Context(), io.MultiReader(&hdr, io.LimitReader(&fragments{}, 700<<20), bytes.NewReader(make([]byte, 1024))), d); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(d); err != nil {
		t.Fatal(err)
	}
	r, err := files(t, d)[1].Open()
	if err != nil {
		t.Fatal(err)
	}
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for wants := io.LimitReader(&fragments{}, 700<<20); ; {
		n, err := io.ReadFull(wants, want)
		m, err2 := io.ReadFull(r, got)
		if !bytes.Equal(got[:m], want[:n]) || !errors.Is(err, err2) {
			t.Fatalf("content differs: %v, %v", err, err2)
		}
		if err != nil {
			break
		}
	}
	fsck(t, d, f.Size())
	f, err = apply(t.Context(), d, pack(t, entry{tar.Header{Typeflag: tar.TypeReg, Name: "f"}, small}))
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, files(t, d)[1]); !bytes.Equal(got, small) {
		t.Error("content differs")
	}
	fsck(t, d, f.Size())
}

// fragments reads as fragmented does, without end.
type fragments struct{ pos int }

func (f *fragments) Read(p []byte) (int, error) {
	clear(p)
	for i := -f.pos & (2<<20 - 1); i < len(p); i += 2 << 20 {
		p[i] = byte((f.pos+i)>>20%255 + 1)
	}
	f.pos += len(p)
	return len(p), nil
}

func TestManyFiles(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("makes 40,000 files")
	}
	var entries []entry
	for i := range 40_000 { // more inodes than a group has, with few blocks
		entries = append(entries, file(fmt.Sprintf("some-directory/with-a-file-of-a-longer-name-%d", i), ""))
	}
	d, size := build(t, pack(t, entries...), pack(t, whiteout("some-directory/with-a-file-of-a-longer-name-77"), dir("x")))
	if got := len(files(t, d)); got != 40_000+2 {
		t.Errorf("%d files", got)
	}
	fsck(t, d, size)
}

// TestSmallChangesAreSmall: a layer has the blocks of its files, and of the metadata that they change.
func TestSmallChangesAreSmall(t *testing.T) {
	t.Parallel()
	base := []entry{dir("etc"), dir("usr"), file("etc/passwd", "root\n")}
	for i := range 2000 {
		base = append(base, file(fmt.Sprintf("usr/%d", i), strings.Repeat("x", 3000)))
	}
	big := noise(5 << 20)
	base = append(base, entry{tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o600}, big})
	changed := bytes.Clone(big)
	changed[3<<20] ^= 1
	for name, tt := range map[string]struct {
		layer []entry
		most  int // of content and metadata
	}{
		"nothing":                          {nil, 1},
		"a new file":                       {[]entry{file("etc/motd", "x")}, 8},
		"another content":                  {[]entry{file("etc/passwd", "me\n")}, 5},
		"a file is deleted":                {[]entry{whiteout("etc/passwd")}, 6},
		"a big file gets another mode":     {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644}, big}}, 2},
		"a big file has one byte changed":  {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644}, changed}}, 5<<8 + 6},
		"all small files get another mode": {func() (l []entry) { l = append(l, base[3:2003]...); return l }(), 2000*256/4096 + 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := build(t, pack(t, base...))
			f, err := apply(t.Context(), d, pack(t, tt.layer...))
			if err != nil {
				t.Fatal(err)
			}
			if n := d.written(); n > tt.most {
				t.Errorf("%d blocks, want %d at most", n, tt.most)
			}
			fsck(t, d, f.Size())
			for _, f := range files(t, d) {
				want := big
				if strings.Contains(name, "one byte") {
					want = changed
				}
				if f.Path == "big" && !bytes.Equal(content(t, f), want) {
					t.Error("content differs")
				}
			}
		})
	}
}

// TestDeterministic: nothing of the machine or of the order of maps is in the blocks.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	attrs := map[string]string{}
	for i := range 20 {
		attrs[fmt.Sprintf("SCHILY.xattr.user.%d", i)] = fmt.Sprint(i)
	}
	layers := [][]byte{
		pack(t, dir("a/b"), file("a/b/c", "1"), entry{tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: attrs}, nil}),
		pack(t, whiteout("a/b"), file("a/d", "2"), link("y", "x")),
	}
	want, _ := build(t, layers...)
	for range 5 {
		if got, _ := build(t, layers...); !cmp.Equal(got.layers, want.layers) {
			t.Fatal("the same layers gave other blocks")
		}
	}
}

func TestErrorsOfOthersStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	data := pack(t, file("a", strings.Repeat("x", 5000)))
	broken := errors.New("broken")
	r := io.MultiReader(bytes.NewReader(data[:2000]), errReader{broken})
	f := ext4.New([16]byte{})
	if err := f.Apply(t.Context(), r, &disk{layers: []map[int64][]byte{{}}}); !errors.Is(err, broken) || errors.Is(err, errs.Corrupt) {
		t.Errorf("reading: %v", err)
	}
	if err := ext4.New([16]byte{}).Apply(t.Context(), bytes.NewReader(data), errWriter{broken}); !errors.Is(err, broken) {
		t.Errorf("writing: %v", err)
	}
	if err := ext4.New([16]byte{}).Flush(errWriter{broken}); !errors.Is(err, broken) {
		t.Errorf("flushing: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := ext4.New([16]byte{}).Apply(ctx, bytes.NewReader(data), errWriter{nil}); !errors.Is(err, broken) {
		t.Errorf("canceled: %v", err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

type errWriter struct{ err error }

func (e errWriter) WriteAt(p []byte, _ int64) (int, error) { return len(p), e.err }

// TestRandomLayers holds stacks of random layers to a model that knows nothing of blocks.
func TestRandomLayers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		model := map[string]string{} // path -> content, "/" for directories
		d := &disk{}
		var size int64
		for i := range 6 {
			var entries []entry
			fresh := map[string]string{}
			for range rnd.IntN(25) {
				entries = append(entries, randomEntry(rnd, model, fresh, i))
			}
			maps.Copy(model, fresh)
			f, err := apply(t.Context(), d, pack(t, entries...))
			if err != nil {
				t.Fatalf("seed %d, layer %d: %v", seed, i, err)
			}
			size = f.Size()
			if diff := cmp.Diff(lines(model), plain(t, d)); diff != "" {
				t.Fatalf("seed %d, layer %d: tree mismatch (-want +got):\n%s", seed, i, diff)
			}
		}
		if seed < 5 {
			fsck(t, d, size)
		}
	}
}

// randomEntry makes an entry for a layer, and does to the model what it does: deletions at once in what is below, the
// rest in fresh.
func randomEntry(rnd *rand.Rand, below, fresh map[string]string, layer int) entry {
	parent := ""
	for range rnd.IntN(3) {
		p := parent + fmt.Sprintf("d%d/", rnd.IntN(3))
		if fresh[strings.TrimSuffix(p, "/")] == "" {
			fresh[strings.TrimSuffix(p, "/")] = "/"
		}
		parent = p
	}
	name := parent + fmt.Sprintf("f%d", rnd.IntN(6))
	remove := func(prefix string) {
		for p := range below {
			if strings.HasPrefix(p, prefix) {
				delete(below, p)
			}
		}
	}
	switch rnd.IntN(5) {
	case 0:
		delete(below, name)
		return whiteout(name)
	case 1:
		if parent == "" {
			fresh["d0"] = "/"
			return dir("d0")
		}
		remove(parent)
		return opaque(strings.TrimSuffix(parent, "/"))
	}
	text := strings.Repeat(fmt.Sprintf("%s in layer %d\n", name, layer*rnd.IntN(2)), 1+rnd.IntN(2)*400)
	fresh[name] = text
	return file(name, text)
}

func lines(model map[string]string) []string {
	var out []string
	for p, c := range model {
		out = append(out, p+" "+c)
	}
	slices.Sort(out)
	return out
}

// plain returns the tree as the model has it.
func plain(t testing.TB, d *disk) []string {
	var out []string
	for _, f := range files(t, d)[1:] {
		c := "/"
		if !f.IsDir() {
			c = string(content(t, f))
		}
		out = append(out, f.Path+" "+c)
	}
	slices.Sort(out)
	return out
}

// TestMemory: content passes through.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("applies 300 MB")
	}
	const size = 300 << 20
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: size}); err != nil {
		t.Fatal(err)
	}
	r := io.MultiReader(&head, io.LimitReader(ones{}, size))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := ext4.New([16]byte{}).Apply(t.Context(), r, errWriter{nil}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("allocated %d bytes", n)
	}
}

type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

// TestOpenRefusesOthers: file systems of other programs have what this package knows nothing of.
func TestOpenRefusesOthers(t *testing.T) {
	t.Parallel()
	d, _ := build(t, pack(t, file("a", "1")))
	for name, change := range map[string]func(block []byte){
		"a journal":         func(b []byte) { b[1024+92] |= 4 },
		"other inodes":      func(b []byte) { b[1024+88] = 128 },
		"no superblock":     func(b []byte) { clear(b) },
		"no groups":         func(b []byte) { clear(b[1024 : 1024+8]) },
		"too many groups":   func(b []byte) { b[1024+3], b[1024+7] = 0xff, 0xff },
		"groups but no ids": func(b []byte) { b[1024+4]++; b[1024+6] = 9 },
	} {
		broken := &disk{layers: append(slices.Clone(d.layers), map[int64][]byte{0: bytes.Clone(d.layers[0][0])})}
		change(broken.layers[1][0])
		if _, err := ext4.Open(broken); !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamage: no changed byte of the metadata crashes Open, or whoever goes on with what it returned.
func TestDamage(t *testing.T) {
	t.Parallel()
	base := pack(t, dir("d"), file("d/f", strings.Repeat("x", 9000)), symlink("s", strings.Repeat("l", 100)), link("h", "d/f"),
		entry{tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 300)}}, nil})
	d, _ := build(t, base)
	blocks := 0
	for b, data := range d.layers[0] {
		blocks++
		step := 1
		if bytes.Count(data, []byte{0}) < len(data)/2 {
			step = 97 // bitmaps and content, every byte of which is like the next
		}
		for i := 0; i < len(data); i += step {
			if data[i] == 0 && i%37 != 0 {
				continue // most of it
			}
			changed := bytes.Clone(data)
			changed[i] ^= 0x55
			broken := &disk{layers: []map[int64][]byte{d.layers[0], {b: changed}}}
			f, err := ext4.Open(broken)
			if err != nil {
				if !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Invalid) {
					t.Fatalf("block %d, byte %d: %v", b, i, err)
				}
				continue
			}
			use(f, broken)
		}
	}
	if blocks < 8 {
		t.Errorf("only %d blocks were tried", blocks)
	}
}

// use does all that can be done with a file system.
func use(f *ext4.FS, d *disk) {
	for file, err := range f.Files() {
		if err != nil || !file.IsRegular() || file.Size > 1<<20 {
			continue
		}
		if r, err := file.Open(); err == nil {
			_, _ = io.Copy(io.Discard, r)
		}
	}
	d.push()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Size: 3})
	_, _ = w.Write([]byte("new"))
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: ".wh.s"})
	_ = w.Close()
	if f.Apply(context.Background(), &buf, d) == nil {
		_ = f.Flush(d)
	}
}

// FuzzApply applies two layers that are hardly tars. What can be applied must be whole afterwards.
func FuzzApply(f *testing.F) {
	f.Add(pack(f, dir("d"), file("d/f", "1"), symlink("s", "d"), link("h", "d/f")), pack(f, whiteout("s"), file("d/f", "2"), opaque("d"), link("d", "h")))
	f.Add(pack(f, file("s/x", "1"), symlink("s", "..")), pack(f, file("s/.wh.x", ""), file("s/y/z", "3")))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		d := &disk{}
		for _, l := range [][]byte{lower, upper} {
			fs, err := apply(t.Context(), d, l)
			if err != nil {
				if len(d.layers) == 2 && strings.Contains(err.Error(), "open ext4") {
					t.Fatal(err)
				}
				return
			}
			_ = fs
		}
		files(t, d)
	})
}

// FuzzOpen changes bytes of a block of a good file system.
func FuzzOpen(f *testing.F) {
	layer := pack(f, dir("d"), file("d/f", strings.Repeat("x", 9000)), symlink("s", strings.Repeat("l", 100)), link("h", "d/f"))
	good, _ := build(f, layer)
	for b := range good.layers[0] {
		f.Add(b, 0, []byte{1, 2, 3, 4})
	}
	f.Fuzz(func(_ *testing.T, b int64, at int, data []byte) {
		old := good.layers[0][b]
		if old == nil || at < 0 || at >= len(old) {
			return
		}
		changed := bytes.Clone(old)
		copy(changed[at:], data)
		broken := &disk{layers: []map[int64][]byte{good.layers[0], {b: changed}}}
		if fs, err := ext4.Open(broken); err == nil {
			use(fs, broken)
		}
	})
}
