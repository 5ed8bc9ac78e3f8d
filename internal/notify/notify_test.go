package notify_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/notify"
	"slipway/internal/notify/dingtalk"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/engine"
	"slipway/internal/pipeline/runner/fake"
	"slipway/internal/pipeline/spec"
)

// group is DingTalk: it takes messages whose signature is right and keeps them.
type group struct {
	t      *testing.T
	secret string

	mu   sync.Mutex
	said []string // as JSON
}

func (g *group) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	millis, err := strconv.ParseInt(q.Get("timestamp"), 10, 64)
	mac := hmac.New(sha256.New, []byte(g.secret))
	_, _ = io.WriteString(mac, q.Get("timestamp")+"\n"+g.secret)
	signature, errSign := base64.StdEncoding.DecodeString(q.Get("sign"))
	body, errBody := io.ReadAll(r.Body)
	fresh := time.Since(time.UnixMilli(millis)).Abs() < time.Hour
	if err = errors.Join(err, errSign, errBody); err != nil || !fresh || !hmac.Equal(signature, mac.Sum(nil)) || q.Get("access_token") != "t0ken" {
		_, _ = io.WriteString(w, `{"errcode":310000,"errmsg":"sign not match"}`)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.said = append(g.said, string(body))
	_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
}

// play runs a pipeline whose texts may hold WEBHOOK, and returns what the group heard, the notices, and the run's error.
func play(t *testing.T, text string) (heard []string, failed map[string]string, runErr error) {
	t.Helper()
	g := &group{t: t, secret: "SEC-hush"}
	server := httptest.NewServer(g)
	defer server.Close()
	text = strings.ReplaceAll(text, "WEBHOOK", server.URL+"/robot/send?access_token=t0ken")
	p, warnings, err := spec.Resolve([]*spec.File{spec.Parse("f.yaml", []byte(text))}, spec.Options{
		Checkers: map[string]spec.Checker{"build-image": fake.Worker{}}, Every: []spec.Checker{notify.Checker{}},
	})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	failed = map[string]string{}
	var mu sync.Mutex
	n := notify.New(p, notify.Options{
		DingTalk: &dingtalk.Client{Now: time.Now},
		Failed: func(task string, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed[task] = err.Error()
		},
	})
	_, runErr = engine.Run(t.Context(), p, engine.Options{Runner: fake.Runner{}, Emit: func(e pipeline.Event) { n.Event(t.Context(), e) }, Now: time.Now})
	n.Close()
	slices.Sort(g.said)
	return g.said, failed, runErr
}

const file = `kind: Pipeline
name: release
spec:
  templateSpec:
    context:
      data:
        enable: true
        dingdingNotification:
          enable: true
          webhook: WEBHOOK
          secret: SEC-hush
          message:
            at: {isAtAll: false, atUserIds: [admin], atMobiles: ["188"]}
            msgtype: text
            text: |
              task finished.
              TaskName: {{ .currentTask.name }}
              Success: {{ .success }}
              Status: {{ .currentTask.status.phase }}{{ if .error }}
              Error: {{ .error }}{{ end }}
    tasks:
`

func contents(t *testing.T, heard []string) []string {
	t.Helper()
	var out []string
	for _, body := range heard {
		var m struct {
			Type string `json:"msgtype"`
			Text struct{ Content string }
			At   map[string]any
		}
		if err := json.Unmarshal([]byte(body), &m); err != nil || m.Type != "text" {
			t.Errorf("%s: %v", body, err)
		}
		out = append(out, m.Text.Content)
	}
	return out
}

func TestEveryTaskThatStarted(t *testing.T) {
	t.Parallel()
	heard, failed, err := play(t, file+`
      - {name: good, taskTemplate: build-image-task}
      - {name: bad, taskTemplate: build-image-task, runAfters: [good], context: {data: {fake: {error: "no <luck> & more"}}}}
      - {name: "off", taskTemplate: build-image-task, runAfters: [good], context: {data: {enable: false}}}
      - {name: after, taskTemplate: build-image-task, runAfters: [bad]}
`)
	if err == nil || len(failed) > 0 {
		t.Errorf("Run: %v, not sent: %v", err, failed)
	}
	want := []string{
		"task finished.\nTaskName: bad\nSuccess: false\nStatus: Failed\nError: no <luck> & more\n",
		"task finished.\nTaskName: good\nSuccess: true\nStatus: Success\n",
	}
	if diff := cmp.Diff(want, contents(t, heard)); diff != "" {
		t.Errorf("messages mismatch (-want +got):\n%s", diff)
	}
	if !strings.Contains(heard[0], `"at":{"atMobiles":["188"],"atUserIds":["admin"]}`) {
		t.Errorf("nobody is mentioned: %s", heard[0])
	}
}

// Off for all and on for some, as the hosted system's example has it, and the other way round.
func TestTasksMayDiffer(t *testing.T) {
	t.Parallel()
	heard, failed, err := play(t, strings.Replace(file, "          enable: true\n", "          enable: false\n          skipOnSuccess: true\n", 1)+`
      - {name: quiet, taskTemplate: build-image-task}
      - {name: skips-success, taskTemplate: build-image-task, context: {data: {dingdingNotification: {enable: true}}}}
      - {name: loud, taskTemplate: build-image-task, context: {data: {dingdingNotification: {enable: true, skipOnSuccess: false, message: {text: "{{ .pipeline.name }}: {{ .currentTask.displayName }}"}}, displayName: 好}}}
      - {name: markdown, taskTemplate: build-image-task, context: {data: {dingdingNotification: {enable: true, skipOnSuccess: false, message: {msgtype: markdown, markdown: {title: "{{ .currentTask.name }}", text: "### {{ .currentTask.status.phase }}"}}}}}}
`)
	if err != nil || len(failed) > 0 {
		t.Errorf("Run: %v, not sent: %v", err, failed)
	}
	want := []string{
		`{"at":{"atMobiles":["188"],"atUserIds":["admin"]},"markdown":{"text":"### Success","title":"markdown"},"msgtype":"markdown"}`,
		`{"at":{"atMobiles":["188"],"atUserIds":["admin"]},"msgtype":"text","text":{"content":"release: 好"}}`,
	}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Errorf("messages mismatch (-want +got):\n%s", diff)
	}
}

// A message that is not taken is told, without its secrets, and the run is none the worse.
func TestFailuresAreNotTheRuns(t *testing.T) {
	t.Parallel()
	_, failed, err := play(t, file+`
      - {name: badly-signed, taskTemplate: build-image-task, context: {data: {dingdingNotification: {secret: SEC-wrong}}}}
      - {name: gone, taskTemplate: build-image-task, context: {data: {dingdingNotification: {webhook: "http://127.0.0.1:1/?access_token=t0ken"}}}}
      - {name: too-long, taskTemplate: build-image-task, context: {data: {fake: {error: "`+strings.Repeat("x", 30_000)+`"}}}}
`)
	if err == nil || strings.Contains(err.Error(), "dingtalk") {
		t.Errorf("Run: %.300v", err)
	}
	for task, want := range map[string]string{
		"badly-signed": "sign not match", "gone": "connection refused", "too-long": "longer than 20000 bytes",
	} {
		if !strings.Contains(failed[task], want) || strings.Contains(failed[task], "t0ken") || strings.Contains(failed[task], "SEC-") {
			t.Errorf("%s: %q, want %q and no secrets", task, failed[task], want)
		}
	}
	if len(failed) != 3 {
		t.Errorf("not sent: %v", slices.Collect(maps.Keys(failed)))
	}
}

func TestDefaultText(t *testing.T) {
	t.Parallel()
	text := strings.SplitN(file, "          message:", 2)[0] + "    tasks:\n      - {name: a, taskTemplate: build-image-task, context: {data: {fake: {exit: 3}}}}\n"
	heard, failed, _ := play(t, text)
	if diff := cmp.Diff([]string{"release: a Failed\nexit status 3"}, contents(t, heard)); diff != "" || len(failed) > 0 {
		t.Errorf("messages mismatch (-want +got):\n%s%v", diff, failed)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, config, want string }{
		{"off", "{enable: false, message: {text: '{{'}}", ""},
		{"no message", "{enable: true, webhook: x}", ""},
		{"everything there is", "{enable: true, webhook: x, message: {text: '{{ .currentTask.status.latestExecError.message | printf \"%q\" }}{{ with .currentTask.digest }}{{ . }}{{ else }}-{{ end }}{{ .currentTask.duration }}'}}", ""},
		{"no webhook", "{enable: true}", "f.yaml:10:13: dingdingNotification is enabled and has no webhook"},
		{"unknown type", "{enable: true, webhook: x, message: {msgtype: markdwon}}", `f.yaml:10:71: dingtalk: unknown msgtype "markdwon"`},
		{"no payload", "{enable: true, webhook: x, message: {msgtype: markdown}}", "f.yaml:10:71: dingtalk: a markdown message without payload"},
		{"syntax", "{enable: true, webhook: x, message: {text: '{{ .currentTask.name'}}", "f.yaml:10:78: the message: unclosed action"},
		{"unknown field", "{enable: true, webhook: x, message: {text: '{{ .currentTask.alias }}'}}", `f.yaml:10:78: the message speaks of "alias", which is not known`},
		{"unknown function", "{enable: true, webhook: x, message: {text: '{{ env \"HOME\" }}'}}", `f.yaml:10:78: the message: function "env" not defined`},
		{"range", "{enable: true, webhook: x, message: {text: '{{ range .pipeline.labels }}x{{ end }}'}}", "f.yaml:10:78: the message: {{range}} has no place in a message"},
		{"range inside if", "{enable: true, webhook: x, message: {text: '{{ if .success }}{{ else }}{{ range .pipeline.labels }}x{{ end }}{{ end }}'}}", "{{range}} has no place in a message"},
		{"a template", "{enable: true, webhook: x, message: {text: '{{ define \"a\" }}{{ template \"a\" }}{{ end }}'}}", "a message cannot define templates"},
		{"inside a payload", "{enable: true, webhook: x, message: {msgtype: link, link: {title: a, text: ['{{ .nothing }}']}}}", `f.yaml:10:111: the message speaks of "nothing"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := "kind: Pipeline\nname: p\nspec:\n  templateSpec:\n    tasks:\n      - name: a\n        taskTemplate: build-image-task\n        context:\n          data:\n            dingdingNotification: " + tt.config + "\n            enable: true\n"
			_, err := spec.Validate([]*spec.File{spec.Parse("f.yaml", []byte(text))}, spec.Options{
				Checkers: map[string]spec.Checker{"build-image": fake.Worker{}}, Every: []spec.Checker{notify.Checker{}},
			})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Whatever a pipeline's author writes as a text is a message or a mistake, soon.
func FuzzText(f *testing.F) {
	for _, s := range []string{
		"plain", "{{ .currentTask.name }}", "{{ if .success }}a{{ else }}{{ .error | printf \"%9999q\" }}{{ end }}",
		"{{ with $x := .pipeline.labels }}{{ $x }}{{ end }}", "{{ define \"a\" }}{{ end }}", "{{ range .pipeline }}{{ end }}", "{{", "{{ . }}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value := func(text string) *pipeline.Value { return &pipeline.Value{Kind: pipeline.String, Text: text} }
		object := func(key string, v *pipeline.Value, more ...pipeline.Member) *pipeline.Value {
			return &pipeline.Value{Kind: pipeline.Map, Members: append([]pipeline.Member{{Key: key, Value: v}}, more...)}
		}
		config := object("enable", value("true"), pipeline.Member{Key: "webhook", Value: value("http://x")},
			pipeline.Member{Key: "message", Value: object("text", value(text))})
		mistakes := 0
		notify.Checker{}.Check(&pipeline.Task{Name: "a", Data: object("dingdingNotification", config)}, func(_ pipeline.Origin, message, _ string) {
			mistakes++
			if message == "" {
				t.Errorf("a mistake in %q without a message", text)
			}
		})
		if mistakes > 1 {
			t.Errorf("%d mistakes in %q", mistakes, text)
		}
	})
}
