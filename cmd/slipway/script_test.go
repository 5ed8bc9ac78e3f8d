package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/oci/registry/serve"
	"slipway/internal/sandbox"
)

var update = flag.Bool("update", false, "rewrite the outputs that scripts compare with")

func TestMain(m *testing.M) {
	sandbox.Init() // sandboxes of the scripts start this test binary again, as they would start slipway
	testscript.Main(m, map[string]func(){"slipway": main})
}

// TestScript tells the command line's stories, one txtar file each. Besides testscript's own commands a story has
//
//	registry     starts an embedded registry; its address is $REGISTRY
//	base [NAME]  pushes a busybox image there as $REGISTRY/NAME (default: base); its reference is $BASE
//	exits N …    executes a program that must exit with status N
//	waitfile F   waits until a background program has made file F
//	web          serves the folders web and git at $WEB (see startWeb)
//
// and the conditions [root], [overlay], [busybox] and [git].
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup:               setup,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"registry": startRegistry,
			"base":     pushBase,
			"exits":    exits,
			"waitfile": waitFile,
			"web":      startWeb,
		},
	})
}

// setup gives every script a home of its own.
func setup(e *testscript.Env) error {
	published, err := filepath.Abs(filepath.Join("testdata", "published"))
	if err != nil {
		return err
	}
	e.Setenv("PUBLISHED", published)
	e.Setenv("SLIPWAY_HOME", filepath.Join(e.WorkDir, ".slipway"))
	e.Setenv("DOCKER_CONFIG", filepath.Join(e.WorkDir, ".docker"))
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("SLIPWAY_GC", "minFree=off") // however full the machine is
	e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		e.Setenv("GIT_"+who+"_NAME", "Script")
		e.Setenv("GIT_"+who+"_EMAIL", "script@example.com")
		e.Setenv("GIT_"+who+"_DATE", "2026-01-01T00:00:00Z")
	}
	return nil
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "overlay":
		known, err := os.ReadFile("/proc/filesystems")
		return os.Geteuid() == 0 && strings.Contains(string(known), "\toverlay\n"), err
	case "busybox":
		_, err := os.Stat(busybox)
		return err == nil, nil
	case "git":
		_, err := exec.LookPath("git")
		return err == nil, nil
	}
	return false, &unknownCondition{name}
}

type unknownCondition struct{ name string }

func (u *unknownCondition) Error() string { return "unknown condition " + u.name }

func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: registry")
	}
	r, err := serve.New(serve.Options{Dir: ts.MkAbs(".registry")})
	ts.Check(err)
	ts.Defer(func() { ts.Check(r.Stop()) })
	ts.Check(r.Start(context.Background(), "127.0.0.1:0"))
	ts.Setenv("REGISTRY", r.Addr())
}

func pushBase(ts *testscript.TestScript, neg bool, args []string) {
	name := "base"
	switch {
	case neg || len(args) > 1:
		ts.Fatalf("usage: base [NAME]")
	case len(args) == 1:
		name = args[0]
	}
	addr := ts.Getenv("REGISTRY")
	if addr == "" {
		ts.Fatalf("base: start a registry first")
	}
	ts.Check(pushBusybox(context.Background(), addr, name))
	ts.Setenv("BASE", addr+"/"+name+":latest")
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARGUMENT…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Check(err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfile FILE")
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("%s did not appear", args[0])
}
