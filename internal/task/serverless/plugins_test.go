package serverless_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/task/serverless"
)

// has fails the test unless a story has every one of the lines.
func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in:\n%s", line, text)
		}
	}
}

// fetcher has one repository, which it gives out after some failures.
type fetcher struct {
	fails int
	kind  error
	got   []serverless.Fetch
}

func (f *fetcher) Fetch(ctx context.Context, what serverless.Fetch, dir string) error {
	f.got = append(f.got, what)
	if f.fails > 0 {
		f.fails--
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o600); err != nil {
			return err
		}
		return errs.Mark(errors.New("unable to access "+what.Token), f.kind)
	}
	return commit{"fetched": "yes", ".git/HEAD": "ref", "sub/file": "fetched"}.Checkout(ctx, dir)
}

func (*fetcher) Head(context.Context, string) (string, error) { return "0123456 a message", nil }

func TestCheckout(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, inputs string
		fails        int
		kind         error
		want         []serverless.Fetch
		story        []string
		err          string
	}{
		{name: "the run's own", inputs: "{}", story: []string{"HEAD is now at 0123456 a message", "go.sum plugin sub"}},
		{name: "the run's own by its commit", inputs: "{commit: '0123456', token: x}", story: []string{"go.sum plugin sub"}},
		{
			name: "another", inputs: "{clone_url: 'https://git.example.com/b.git', ref: main, token: t0ken-of-git, provider: github, exec_dir: deep/er}",
			want:  []serverless.Fetch{{URL: "https://git.example.com/b.git", Ref: "main", User: "x-access-token", Token: "t0ken-of-git"}},
			story: []string{"fetch main of https://git.example.com/b.git", "deep/er/fetched"},
		},
		{
			name: "another commit of the run's own", inputs: "{ref: '+fedc:refs/remotes/origin/main', commit: fedc}",
			want: []serverless.Fetch{{URL: "https://git.example.com/team/shop.git", Ref: "+fedc:refs/remotes/origin/main", User: "oauth2"}},
		},
		{
			name: "an old GitLab", inputs: "{ref: '+fedc:refs/remotes/origin/main', commit: fedc, provider: self-gitlab}",
			want: []serverless.Fetch{{URL: "https://git.example.com/team/shop.git", Ref: "main", Commit: "fedc", User: "oauth2"}},
		},
		{
			name: "tried again", inputs: "{ref: main, token: t0ken-of-git}", fails: 2, kind: errs.Unavailable,
			want:  make([]serverless.Fetch, 3),
			story: []string{"unable to access ***", "retry 2 of 3", "fetched", "! half"},
		},
		{name: "not for ever", inputs: "{ref: main}", fails: 9, kind: errs.Unavailable, want: make([]serverless.Fetch, 4), err: "unable to access"},
		{name: "denied", inputs: "{ref: main}", fails: 1, kind: errs.Denied, want: make([]serverless.Fetch, 1), err: "unable to access"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fetcher{fails: tt.fails, kind: tt.kind}
			opts := options()
			opts.Fetcher = f
			text, err := work(t, opts, "- plugin: '@serverless-cd/checkout'\n  inputs: "+tt.inputs+"\n- run: echo $(find . -type f | sort | grep -c .) $(ls) $(find . -type f)\n  if: always()")
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Work: %v, want %q", err, tt.err)
			}
			for _, line := range tt.story {
				if absent, ok := strings.CutPrefix(line, "! "); ok {
					if strings.Contains(text, absent) {
						t.Errorf("%q in:\n%s", absent, text)
					}
					continue
				}
				has(t, text, line)
			}
			if len(f.got) != len(tt.want) {
				t.Fatalf("fetched %d times, want %d:\n%s", len(f.got), len(tt.want), text)
			}
			if len(tt.want) == 1 && tt.kind == nil {
				if diff := cmp.Diff(tt.want, f.got); diff != "" {
					t.Errorf("fetch mismatch (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// What is in the workspace before a checkout may be a trap: links that lead out of it, and a .git of a step's own.
func TestCheckoutStaysInTheWorkspace(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	opts := options()
	opts.Fetcher = &fetcher{}
	text, err := work(t, opts, fmt.Sprintf(`
- run: |
    ln -s %[1]s sub; ln -s %[1]s/go.sum go.sum; mkdir .git; echo evil > .git/config; echo mine > mine; ln -s %[1]s out
- plugin: '@serverless-cd/checkout'
- run: echo $(find . -type l) $(ls -A) $(cat go.sum sub/file)
- plugin: '@serverless-cd/checkout'
  inputs: {exec_dir: out}`, outside))
	if err == nil || !strings.Contains(err.Error(), "path escapes") {
		t.Errorf("a checkout through a link: %v", err)
	}
	has(t, text, "./out go.sum mine out plugin sub sum text")
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// workIn runs steps in a folder of a name that stays, as rooms have theirs: archives hold absolute paths.
func workIn(t *testing.T, dir string, opts serverless.Options, steps string, mounts ...pipeline.Mount) (string, error) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	w := serverless.New(opts)
	task, _, err := resolve("p.yaml", yaml(steps), w)
	if err != nil {
		t.Fatal(err)
	}
	task.Environment.Mounts = mounts
	text, _, err := storyIn(t.Context(), t, dir, w, task)
	return text, err
}

const cacheSteps = `
- plugin: '@serverless-cd/cache'
  id: cache
  inputs: %s
- run: 'echo hit: ${{ steps.cache.outputs.cache-hit }} $(cat modules/a 2>/dev/null); mkdir -p modules; echo %s > modules/a; %s'`

func TestCache(t *testing.T) {
	t.Parallel()
	s3 := &bucket{objects: map[string][]byte{}}
	server := httptest.NewServer(s3)
	t.Cleanup(server.Close)
	for name, place := range map[string]string{
		"this machine": "",
		"bucket":       ", endpoint: '" + server.URL + "', bucket: b, prefix: p, credentials: {accessKeyId: id, accessKeySecret: sec-ret}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := options()
			opts.Cache = t.TempDir()
			dir := filepath.Join(t.TempDir(), "job")
			for i, tt := range []struct {
				key, write, then string
				story            []string
			}{
				{"a/../b", "first", "true", []string{"hit: false", "Post Run @serverless-cd/cache: success", "saved the cache a/../b"}},
				{"a/../b", "second", "exit 1", []string{"hit: true first", "is not saved: the task did not succeed"}},
				{"a/../b", "third", "true", []string{"hit: true first", "saved the cache"}},
				{"a/../b", "fourth", "rm -r modules", []string{"hit: true third", "nothing to save"}},
				{"other", "fifth", "true", []string{"hit: false"}},
			} {
				inputs := "{key: '" + tt.key + "', path: [modules, missing]" + place + "}"
				text, err := workIn(t, dir, opts, fmt.Sprintf(cacheSteps, inputs, tt.write, tt.then))
				if (err != nil) != (tt.then == "exit 1") {
					t.Errorf("run %d: %v", i, err)
				}
				has(t, text, tt.story...)
			}
		})
	}
	t.Run("broken", func(t *testing.T) {
		t.Parallel()
		opts := options()
		opts.Cache = filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(opts.Cache, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		text, err := work(t, opts, fmt.Sprintf(cacheSteps, "{key: a, path: modules}", "x", "true"))
		if err != nil {
			t.Errorf("a cache that cannot be used fails the task: %v", err)
		}
		has(t, text, "cannot be used", "hit: false", "is not saved in this machine")
	})
	t.Run("mistakes", func(t *testing.T) {
		t.Parallel()
		for inputs, want := range map[string]string{
			"{key: a, path: b, folder: /mnt/x}": "the folder /mnt/x is in no NAS mount",
			"{key: a, path: b, bucket: c}":      "the bucket c needs an endpoint",
		} {
			_, err := work(t, options(), fmt.Sprintf(cacheSteps, inputs, "x", "true"))
			if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", inputs, err)
			}
		}
	})
}

// A folder of a mount is written to by steps, too: no link in it leads anywhere else.
func TestCacheInAMount(t *testing.T) {
	t.Parallel()
	folder, dir := t.TempDir(), filepath.Join(t.TempDir(), "job")
	mount := pipeline.Mount{Dir: "/mnt/nas", Folder: folder}
	steps := fmt.Sprintf(cacheSteps, "{key: a, path: modules, folder: /mnt/nas/caches}", "kept", "true")
	for i, want := range []string{"hit: false", "hit: true kept"} {
		text, err := workIn(t, dir, options(), steps, mount)
		if err != nil {
			t.Fatal(err)
		}
		has(t, text, want)
		if files, err := os.ReadDir(filepath.Join(folder, "caches")); err != nil || len(files) != 1 {
			t.Errorf("after run %d the folder has %v, %v", i, files, err)
		}
	}
	outside := t.TempDir()
	if err := errors.Join(os.RemoveAll(filepath.Join(folder, "caches")), os.Symlink(outside, filepath.Join(folder, "caches"))); err != nil {
		t.Fatal(err)
	}
	text, err := workIn(t, dir, options(), steps, mount)
	if err != nil {
		t.Fatal(err)
	}
	has(t, text, "is not saved")
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// bucket is an S3 server with one bucket.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.HasPrefix(r.URL.Path, "/b/p/a_.._b-") && !strings.HasPrefix(r.URL.Path, "/b/p/other-") || !strings.Contains(r.Header.Get("Authorization"), "Credential=id/") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if r.Method == http.MethodPut {
		b.objects[r.URL.Path], _ = io.ReadAll(r.Body)
		return
	}
	data, ok := b.objects[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(data)
}

func TestDingTalk(t *testing.T) {
	t.Parallel()
	var got map[string]any
	var query url.Values
	answer := `{"errcode":0}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.Query()
		_ = json.NewDecoder(r.Body).Decode(&got)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	steps := `
- plugin: '@serverless-cd/ding-talk'
  inputs:
    webhook: ` + server.URL + `/?access_token=hidden-t0ken
    secret: hidden-s3cret
    msgtype: markdown
    payload: {title: "${{ git.branch }}", text: "## ${{ status }}"}
    at: {isAtAll: true, atMobiles: [13800000000]}
- plugin: '@serverless-cd/ding-talk'
  if: ${{ failure() }}
  inputs: {webhook: "` + server.URL + `", payload: it failed}`
	text, err := work(t, options(), steps)
	if err != nil {
		t.Fatal(err)
	}
	has(t, text, "sent a markdown message")
	want := map[string]any{
		"msgtype": "markdown", "markdown": map[string]any{"title": "main", "text": "## success"},
		"at": map[string]any{"isAtAll": true, "atMobiles": []any{"13800000000"}},
	}
	if diff := cmp.Diff(want, got); diff != "" || query.Get("sign") == "" {
		t.Errorf("message mismatch (-want +got):\n%s\nsigned: %v", diff, query.Has("sign"))
	}
	answer = `{"errcode":310000,"errmsg":"token hidden-t0ken and hidden-s3cret"}`
	text, err = work(t, options(), steps)
	if !errors.Is(err, errs.Denied) || strings.Contains(text+err.Error(), "hidden") {
		t.Errorf("Work: %v\n%s", err, text)
	}
	if diff := cmp.Diff(map[string]any{"content": "it failed"}, got["text"]); diff != "" {
		t.Errorf("second message mismatch (-want +got):\n%s", diff)
	}
}

// mailServer takes one mail in plain text and returns what was said to it.
func mailServer(t *testing.T) (port string, said func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		say := func(s string) { _, _ = io.WriteString(conn, s+"\r\n") }
		say("220 here")
		data := false
		for in := bufio.NewScanner(conn); in.Scan(); {
			line := in.Text()
			lines = append(lines, line)
			word, _, _ := strings.Cut(line, " ")
			switch {
			case data && line != ".":
			case word == "EHLO":
				say("250-here")
				say("250 AUTH PLAIN")
			case word == "AUTH":
				say("235 welcome")
			case word == "DATA":
				data = true
				say("354 go on")
			case word == "QUIT":
				say("221 bye")
				return
			default:
				data = false
				say("250 fine")
			}
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, func() []string {
		_ = l.Close()
		<-done
		return lines
	}
}

func TestSendEmail(t *testing.T) {
	t.Parallel()
	port, said := mailServer(t)
	text, err := work(t, options(), `
- plugin: '@serverless-cd/send-email'
  inputs:
    config: {host: localhost, port: `+port+`, pass: pass-w0rd}
    mail:
      from: '"CI 构建" <ci@example.com>'
      to: a@example.com, B <b@example.com>
      bcc: [c@example.com]
      subject: "${{ git.branch }}: 好\nBcc: evil@example.com"
      html: <b>${{ status }}</b>`)
	lines := said()
	if err != nil {
		t.Fatalf("Work: %v\n%s\n%q", err, text, lines)
	}
	has(t, text, "sent a mail to a@example.com, b@example.com, c@example.com")
	got := strings.Join(lines, "\n")
	body := base64.StdEncoding.EncodeToString([]byte("<b>success</b>"))
	auth := base64.StdEncoding.EncodeToString([]byte("\x00ci@example.com\x00pass-w0rd"))
	has(t, got, "AUTH PLAIN "+auth, "MAIL FROM:<ci@example.com>", "RCPT TO:<a@example.com>", "RCPT TO:<c@example.com>",
		"Subject: =?utf-8?q?main:_=E5=A5=BD", "Content-Type: text/html; charset=utf-8", "\n"+body+"\n.", `To: <a@example.com>, "B" <b@example.com>`)
	if strings.Contains(got, "evil@example.com>") || strings.Contains(got, "\nBcc:") {
		t.Errorf("a header came in with the subject:\n%s", got)
	}
}

func TestSendEmailMistakes(t *testing.T) {
	t.Parallel()
	for inputs, want := range map[string]string{
		"{config: {}, mail: {from: a@example.com, to: b@example.com}}":         "config has neither host nor service",
		"{config: {host: h}, mail: {from: nobody, to: b@example.com}}":         "mail.from",
		"{config: {host: h}, mail: {from: a@example.com}}":                     "mail.to is missing",
		"{config: {host: h}, mail: {from: a@example.com, to: ['x', 'y z']}}":   "mail.to",
		"{config: {host: 127.0.0.1, port: 1}, mail: {from: a@b.c, to: a@b.c}}": "send a mail by 127.0.0.1",
	} {
		_, err := work(t, options(), "- plugin: '@serverless-cd/send-email'\n  inputs: "+inputs)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", inputs, err, want)
		}
	}
	_, _, err := resolve("p.yaml", yaml("- plugin: '@serverless-cd/send-email'\n  inputs: {config: {service: qqx}, mail: {}}"), serverless.New(serverless.Options{}))
	if err == nil || !strings.Contains(err.Error(), "unknown mail service qqx") {
		t.Errorf("unknown service: %v", err)
	}
}

// programs puts scripts into the PATH of a step, in place of programs that this machine may not have.
func programs(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir + ":/usr/bin:/bin"
}

func TestNpmPublish(t *testing.T) {
	t.Parallel()
	path := programs(t, map[string]string{"npm": `echo "npm $* in $(basename $PWD)"; eval "cat <<E
$(cat $NPM_CONFIG_USERCONFIG)
E"; cat $NPM_CONFIG_USERCONFIG | sed 's/^/file /'`})
	text, err := work(t, options(), `
- run: mkdir pkg
- plugin: '@serverless-cd/npm-publish'
  env: {PATH: "`+path+`"}
  inputs: {token: npm-t0ken, registry: npm.example.com/team, codeDir: pkg}`)
	if err != nil {
		t.Fatal(err, text)
	}
	has(t, text, "npm publish --registry https://npm.example.com/team in pkg", "//npm.example.com/team/:_authToken=***", "file //npm.example.com/team/:_authToken=${NPM_TOKEN}")
	text, err = work(t, options(), `
- plugin: '@serverless-cd/npm-publish'
  env: {PATH: "`+programs(t, nil)[:10]+`/nothing:/bin/nothing"}`)
	if err == nil {
		t.Errorf("without npm: no error\n%s", text)
	}
}

func TestSSetup(t *testing.T) {
	t.Parallel()
	path := programs(t, map[string]string{"s": `for a; do printf '[%s]' "$a"; done; echo`})
	steps := "- plugin: '@serverless-cd/s-setup'\n  env: {PATH: \"" + path + "\"}\n- run: echo alias $serverless_devs_access_cicd_alias_name"
	text, err := work(t, options(), steps)
	if err != nil {
		t.Fatal(err, text)
	}
	has(t, text, "[--version]", "[config][add][--AccessKeyID][LTAI][--AccessKeySecret][***][--access][default][-f][--AccountID][42]", "alias default")

	opts := options()
	opts.Account = serverless.Account{}
	text, err = work(t, opts, steps)
	if err != nil {
		t.Fatal(err)
	}
	has(t, text, "there is no account to set up")
	text, err = work(t, options(), "- plugin: '@serverless-cd/s-setup'\n  env: {PATH: /usr/bin:/bin}")
	if err != nil {
		t.Fatal(err)
	}
	has(t, text, "the program s is not in this environment")
}

func TestNodePlugins(t *testing.T) {
	t.Parallel()
	npm := `# npm install … --prefix DIR NAME
for last; do :; done
mkdir -p "$PWD/node_modules/$last" && echo "$PWD" > "$PWD/node_modules/$last/where"`
	node := `# node SHIM PLUGIN CALL RESULT
echo "plugin $2"; cat "$3"; echo
case $(cat "$3") in *postRun*) echo '{"outputs":null,"env":{},"post":true}' > "$4";;
*) echo '{"outputs":{"answer":42},"env":{"LEFT":"behind","SLIPWAY_ENV":"no"},"post":true}' > "$4";; esac`
	path := programs(t, map[string]string{"npm": npm, "node": node})
	w := serverless.New(options())
	task, _, err := resolve("p.yaml", yaml("- plugin: '@team/tool@1.2'\n  id: a\n  inputs: {x: [1, true, '${{ status }}']}\n- run: echo ${{ steps.a.outputs.answer }} $LEFT"), w)
	if err != nil {
		t.Fatal(err)
	}
	task.Env = map[string]string{"PATH": path}
	text, _, err := story(t.Context(), t, w, task)
	if err != nil {
		t.Fatal(err, text)
	}
	has(t, text, "install the plugin @team/tool@1.2", "/tmp/cache/plugins/@team/tool@1.2/node_modules/@team/tool", `"inputs":{"x":[1,true,"success"]}`, "42 behind",
		`"method":"postRun"`, `"outputs":{"answer":42}`, `"cwd":"`, `"branch":"main"`, "Post Run @team/tool@1.2: success")
	if strings.Contains(text, "s3cret") {
		t.Errorf("a secret shows:\n%s", text)
	}
	if err := os.RemoveAll("/tmp/cache/plugins/@team/tool@1.2"); err != nil {
		t.Error(err)
	}
}

func TestRuntimeSetup(t *testing.T) {
	t.Parallel()
	path := programs(t, map[string]string{"node": "echo v18.1.0", "java": `echo 'openjdk version "1.8.0_392"' >&2`})
	text, err := work(t, options(), `
- plugin: '@serverless-cd/runtime-setup'
  env: {PATH: "`+path+`"}
  inputs: {runtime: [nodejs18, nodejs16, java8]}
- plugin: '@serverless-cd/runtime-setup'
  inputs: {runtime: python3.1}
- run: echo $PATH`)
	if err != nil {
		t.Fatal(err)
	}
	has(t, text, "nodejs18: the environment's own", "nodejs16 is not in this environment", "java8: the environment's own", "python3.1 is not in this environment", "    "+path+"\n")
}
