package app_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/errs"
)

// No secret is in any file that a build writes, whatever becomes of the build, nor in anything that it says.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	const secret = "hush-do-not-tell"
	context := write(t, "Dockerfile", `FROM busybox
RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S,target=/etc/s.txt,mode=0444,uid=1 \
    cat /run/secrets/s /etc/s.txt >&2 && echo "$S" && stat -c "%a %u" /run/secrets/s /etc/s.txt > /out \
    && grep -q "tmpfs" /proc/mounts && test "$S" = "$(cat /run/secrets/s)"
RUN --mount=type=secret,id=s,env=S echo "twice $S $S"; test -z "$UNSET"
`, "Failing", `FROM busybox
RUN --mount=type=secret,id=s,env=S echo "failing with $S"; exit 3
`, "value", secret)
	given := []app.Secret{{ID: "s", File: filepath.Join(context, "value")}}
	good := w.build(t, app.Build{Context: context, Secrets: given})
	if !strings.Contains(good.said, "twice **** ****") {
		t.Errorf("the log does not show where a secret was:\n%s", good.said)
	}
	if got := good.tree["/out"]; got == "" {
		t.Error("RUN left nothing")
	}
	for p := range good.tree {
		if p != "/out" {
			t.Errorf("%s is left in the image", p)
		}
	}
	bad, err := w.attempt(t, app.Build{Context: context, File: filepath.Join(context, "Failing"), Secrets: given})
	step, ok := errors.AsType[*build.StepError](err)
	if !ok || step.Code != 3 {
		t.Fatalf("Build = %v", err)
	}
	for what, text := range map[string]string{
		"what a build says": good.said, "what a failed build says": bad.said, "the error": err.Error(), "the last lines": strings.Join(step.Tail, "\n"),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the secret is in %s:\n%s", what, text)
		}
	}
	searchFor(t, w.home, secret)
}

// searchFor looks for a secret in every file below dir, unpacked where it is compressed.
func searchFor(t *testing.T, dir, secret string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(plain(t, f))
		if err == nil && bytes.Contains(data, []byte(secret)) {
			t.Errorf("the secret is in %s", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Another value of a secret is no reason to build again; another id is.
func TestSecretsAreNoPartOfKeys(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	context := write(t, "Dockerfile", "FROM busybox\nARG ID\nRUN --mount=type=secret,id=$ID,target=/s cat /s > /dev/null && echo > /x\n", "one", "1111", "two", "2222")
	run := func(id, file string) int {
		secret := app.Secret{ID: id, File: filepath.Join(context, file)}
		return w.build(t, app.Build{Context: context, Args: map[string]string{"ID": id}, Secrets: []app.Secret{secret}}).Stats.Cached
	}
	run("a", "one")
	if run("a", "two") != 1 {
		t.Error("a secret's value is part of the key")
	}
	if run("b", "two") != 0 {
		t.Error("a secret's id is no part of the key")
	}
}

func TestRequiredMounts(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	for mount, hint := range map[string]string{
		"type=secret,id=s,required": "--secret id=s,src=FILE", "type=ssh,required": "--ssh default", "type=ssh,id=work,required=true": "--ssh work",
	} {
		_, err := w.attempt(t, app.Build{Context: write(t, "Dockerfile", "FROM busybox\nRUN --mount="+mount+" true\n")})
		if !errors.Is(err, errs.Invalid) || !strings.Contains(errs.HintOf(err), hint) {
			t.Errorf("%s: %v, hint %q", mount, err, errs.HintOf(err))
		}
	}
}

func TestMissingSecretFile(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	context := write(t, "Dockerfile", "FROM busybox\n")
	for _, s := range []app.Secret{{ID: "none"}, {ID: "s", File: filepath.Join(context, "none")}} {
		if _, err := w.attempt(t, app.Build{Context: context, Secrets: []app.Secret{s}}); !errors.Is(err, errs.Invalid) {
			t.Errorf("Build with %+v = %v", s, err)
		}
	}
}

// A cache mount is found again by the next build, on other instructions, and by those who have its namespace.
func TestCacheMountsPersist(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	const seed = "FROM busybox AS b\nRUN mkdir -m 750 /s && chown 1:2 /s && echo 1 > /s/seed\nFROM busybox\n"
	for _, step := range []struct{ name, text, namespace string }{
		{"first", "FROM busybox\nRUN --mount=type=cache,target=/c echo 1 > /c/f", ""},
		{"found again", "FROM busybox\nRUN --mount=type=cache,target=/c test -e /c/f && echo 2 > /c/g", ""},
		{"by its id", "FROM busybox\nRUN --mount=type=cache,id=/c,target=/d,sharing=locked test -e /d/g", ""},
		{"read-only", "FROM busybox\nRUN --mount=type=cache,target=/c,ro test -e /c/g && ! touch /c/h", ""},
		{"another owner is another folder", "FROM busybox\nRUN --mount=type=cache,target=/c,uid=3 test ! -e /c/f", ""},
		{"another namespace too", "FROM busybox\nRUN --mount=type=cache,target=/c test ! -e /c/f", "x"},
		{"seeded", seed + "RUN --mount=type=cache,target=/c,from=b,source=/s test -e /c/seed && rm /c/seed && stat -c '%a %u' /c | grep '750 1'", ""},
		{"seeded once", seed + "RUN --mount=type=cache,target=/c,from=b,source=/s test ! -e /c/seed", ""},
		{"twice in one RUN", "FROM busybox\nRUN --mount=type=cache,id=t,target=/c --mount=type=cache,id=t,target=/d,sharing=locked touch /c/x && test -e /d/x", ""},
		{"private while nobody has it", "FROM busybox\nRUN --mount=type=cache,id=/c,target=/d,sharing=private test -e /d/g", ""},
	} {
		b := app.Build{Context: write(t, "Dockerfile", step.text+"\n")}
		if step.namespace != "" {
			b.Args = map[string]string{"BUILDKIT_CACHE_MOUNT_NS": step.namespace}
		}
		if got, err := w.attempt(t, b); err != nil {
			t.Errorf("%s: %v\n%s", step.name, err, got.said)
		}
	}
}

// What a bind mount shows is part of the RUN's key: no less, no more.
func TestBindMountsAreKeyedByContent(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	dockerfile := `FROM busybox AS b
ARG V
RUN mkdir /s /other && echo same > /s/f && echo $V > /other/v
FROM busybox
RUN --mount=source=d,target=/m cat /m/f > /a
RUN --mount=from=b,source=/s,target=/m cat /m/f > /b
`
	context := write(t, "Dockerfile", dockerfile, "d/f", "1", "e", "1", ".dockerignore", "d/hidden\n", "d/hidden", "1")
	build := func(v string) build.Stats {
		return w.build(t, app.Build{Context: context, Args: map[string]string{"V": v}}).Stats
	}
	change := func(name string) {
		if err := os.WriteFile(filepath.Join(context, name), []byte("2"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build("1")
	change("e")
	change("d/hidden")
	if s := build("1"); s.Cached != s.Steps {
		t.Errorf("a file that is not mounted: %d of %d steps were cached", s.Cached, s.Steps)
	}
	change("d/f")
	if s := build("1"); s.Cached == s.Steps {
		t.Error("a changed file is mounted, and nothing ran")
	}
	if s := build("2"); s.LayersPacked > 1 { // the stage itself, if anything
		t.Errorf("the stage left the same files, and still %d layers were packed", s.LayersPacked)
	}
}

// A RUN gets a socket of its own, gone when it ends.
func TestSSHMount(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := w.build(t, app.Build{SSH: []app.Agent{{ID: "default", Socket: socket}}, Context: write(t, "Dockerfile", `FROM busybox
RUN --mount=type=ssh,uid=12,mode=0660 test -S $SSH_AUTH_SOCK && stat -c "%a %u" $SSH_AUTH_SOCK | grep "660 12"
RUN --mount=type=ssh,target=/a/b test -S /a/b && test "$SSH_AUTH_SOCK" = /a/b
RUN test ! -e /run/buildkit && test ! -e /a
`)})
	if len(got.tree) != 0 {
		t.Errorf("left in the image: %v", got.tree)
	}
}
