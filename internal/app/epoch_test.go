package app_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/app"
)

// dated is a Dockerfile whose RUNs leave what depends on times, as compilers do: compile records the time of its source
// unless SOURCE_DATE_EPOCH is set, as Python's does.
const dated = `FROM base AS build
RUN date +%N >/tmp/noise && rm /tmp/noise && touch /tool && ln -s tool /tool2
COPY compile in.py /src/
RUN sh /src/compile /src/in.py
FROM base
COPY --from=build /src /tool /app/
COPY in.py /again/
RUN stat -c '%n %Y %a' /app /app/* /again/* /base >/listing && sh /app/compile /app/in.py
WORKDIR /work
CMD ["sh"]
`

const compile = `if [ -n "$SOURCE_DATE_EPOCH" ]; then md5sum <$1 >${1}c; else stat -c %Y $1 >${1}c; fi
`

// commitAll makes a commit of a folder, dated, and makes a repository of it first if need be.
func commitAll(t *testing.T, dir, date string) {
	t.Helper()
	for _, args := range [][]string{
		{"init", "-q", "."},
		{"add", "-A"},
		{"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-q", "-m", "x", "--allow-empty"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_COMMITTER_DATE="+date, "GIT_AUTHOR_DATE="+date)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
}

// datedBase builds an image whose date is known, and a Dockerfile's first lines to stand on it.
func datedBase(t *testing.T, w *workshop, addr string) string {
	t.Helper()
	w.build(t, app.Build{
		Context: write(t, "Dockerfile", "FROM busybox\nRUN echo >/base\n"), Push: true, Tags: []string{addr + "/base:1"}, Epoch: "1500000000",
	})
	return strings.ReplaceAll(dated, "FROM base", "FROM "+addr+"/base:1")
}

// TestEpochOfTheContext builds one commit on machines that differ in all but it, and then the next commit, where one
// machine has a cache and one has none.
func TestEpochOfTheContext(t *testing.T) {
	t.Parallel()
	old := newWorkshop(t)
	addr := startRegistry(t)
	dir := write(t, "Dockerfile", datedBase(t, old, addr), "compile", compile, "in.py", "1", "README", "not copied")
	commitAll(t, dir, "1700000000 +0000")
	b := app.Build{Context: dir, Epoch: "context"}
	first := old.build(t, b)
	for i, at := range []time.Time{time.Unix(1, 0), time.Now().Add(time.Hour)} { // checked out at other times
		for _, name := range []string{"in.py", "compile"} {
			if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
				t.Fatal(err)
			}
		}
		if again := newWorkshop(t).build(t, b); again.Manifest.Digest != first.Manifest.Digest {
			t.Errorf("machine %d made %s, want %s", i, again.Manifest.Digest, first.Manifest.Digest)
		}
	}
	for i, change := range []struct{ name, content string }{{"README", "changed"}, {"in.py", "2"}} {
		if err := os.WriteFile(filepath.Join(dir, change.name), []byte(change.content), 0o644); err != nil {
			t.Fatal(err)
		}
		commitAll(t, dir, []string{"1700001000 +0000", "1700002000 +0000"}[i])
		warm, clean := old.build(t, b), newWorkshop(t).build(t, b)
		if warm.Manifest.Digest != clean.Manifest.Digest {
			t.Errorf("%s: the cache made %s of what is %s", change.name, warm.Manifest.Digest, clean.Manifest.Digest)
		}
		if ran := warm.Stats.Steps - warm.Stats.Cached; i == 0 && ran > 0 || i == 1 && warm.Stats.Cached < 1 {
			t.Errorf("%s: %d steps ran, %+v", change.name, ran, warm.Stats)
		}
		if warm.Manifest.Digest == first.Manifest.Digest {
			t.Errorf("%s: the image has the date of the first commit", change.name)
		}
	}
}

// TestEpochDates says what a RUN gets to see, and what dates the files have.
func TestEpochDates(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	addr := startRegistry(t)
	datedBase(t, w, addr)
	see := "RUN env | sed -n s/^SOURCE_DATE_//p >/seen\n"
	for name, c := range map[string]struct{ dockerfile, epoch, want string }{
		"none":                    {"FROM " + addr + "/base:1\n" + see, "none", ""},
		"after the base":          {"FROM " + addr + "/base:1\n" + see, "1700000000", "EPOCH=1500000000"},
		"before the base":         {"FROM " + addr + "/base:1\n" + see, "1400000000", "EPOCH=1400000000"},
		"undated base":            {"FROM busybox\n" + see, "1700000000", "EPOCH=315532800"},
		"undated, zero":           {"FROM busybox\n" + see, "0", "EPOCH=0"},
		"on a stage":              {"FROM " + addr + "/base:1 AS a\nFROM a\n" + see, "1700000000", "EPOCH=1500000000"},
		"declared":                {"FROM busybox\nARG SOURCE_DATE_EPOCH\n" + see, "1700000000", "EPOCH=1700000000"},
		"named":                   {"FROM busybox\nRUN echo EPOCH=$SOURCE_DATE_EPOCH >/seen\n", "1700000000", "EPOCH=1700000000"},
		"named in a script":       {"FROM busybox\nRUN <<E\n#!/bin/sh\necho EPOCH=$SOURCE_DATE_EPOCH >/seen\nE\n", "1700000000", "EPOCH=1700000000"},
		"set to something by ENV": {"FROM busybox\nENV SOURCE_DATE_EPOCH=5\n" + see, "1700000000", "EPOCH=5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out")
			got := w.filesOf(t, app.Build{Context: write(t, "Dockerfile", c.dockerfile), Epoch: c.epoch}, out)
			if seen := strings.TrimSpace(got("seen")); seen != c.want {
				t.Errorf("RUN sees %q, want %q", seen, c.want)
			}
		})
	}
}

// TestEpochIsNotInKeys builds for another epoch: only the RUN that names it runs again.
func TestEpochIsNotInKeys(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	dir := write(t, "a", "a", "Dockerfile", "FROM busybox\nRUN echo x >/x\nCOPY a /\nRUN echo $SOURCE_DATE_EPOCH >/y\n")
	one := w.build(t, app.Build{Context: dir, Epoch: "1700000000"})
	two := w.build(t, app.Build{Context: dir, Args: map[string]string{"SOURCE_DATE_EPOCH": "1800000000"}})
	if one.Layers[2].Digest != two.Layers[2].Digest || two.Stats.Cached != 2 {
		t.Errorf("stats = %+v; layers %v and %v", two.Stats, one.Layers, two.Layers)
	}
	flag := w.build(t, app.Build{Context: dir, Epoch: "1800000000"})
	if flag.Manifest.Digest != two.Manifest.Digest || flag.Stats.Cached != 3 {
		t.Errorf("the flag made %s, the argument %s", flag.Manifest.Digest, two.Manifest.Digest)
	}
}

func TestEpochRefusals(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	dir := write(t, "Dockerfile", "FROM busybox\n")
	for epoch, want := range map[string]string{"-1": "want seconds", "soon": "want seconds", "context": "commit of"} {
		if _, err := w.attempt(t, app.Build{Context: dir, Epoch: epoch}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("epoch %s: %v, want %q", epoch, err, want)
		}
	}
}
