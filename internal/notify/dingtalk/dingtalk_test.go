package dingtalk_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/notify/dingtalk"
)

// receiver is a robot's webhook: it keeps what it got and answers as told.
type receiver struct {
	query  url.Values
	body   map[string]any
	status int
	answer string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.query = req.URL.Query()
	data, _ := io.ReadAll(req.Body)
	_ = json.Unmarshal(data, &r.body)
	if r.status != 0 {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(r.status)
	}
	_, _ = io.WriteString(w, r.answer)
}

func start(t *testing.T, r *receiver) string {
	t.Helper()
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return server.URL + "/robot/send?access_token=t0ken"
}

func client() *dingtalk.Client {
	return &dingtalk.Client{Now: func() time.Time { return time.UnixMilli(1700000000000) }}
}

const ok = `{"errcode":0,"errmsg":"ok"}`

func TestSend(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		message dingtalk.Message
		want    string
	}{
		{"text", dingtalk.Text("done"), `{"msgtype":"text","text":{"content":"done"},"at":{}}`},
		{
			"at",
			dingtalk.Message{
				Type: "text", Payload: map[string]any{"content": "x"},
				At: dingtalk.At{Mobiles: []string{"188"}, UserIDs: []string{"admin"}, All: true},
			},
			`{"msgtype":"text","text":{"content":"x"},"at":{"atMobiles":["188"],"atUserIds":["admin"],"isAtAll":true}}`,
		},
		{
			"feedCard",
			dingtalk.Message{Type: "feedCard", Payload: json.RawMessage(`{"links":[{"title":"a"}]}`)},
			`{"msgtype":"feedCard","feedCard":{"links":[{"title":"a"}]},"at":{}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &receiver{answer: ok}
			if err := client().Send(t.Context(), dingtalk.Robot{Webhook: start(t, r)}, tt.message); err != nil {
				t.Fatal(err)
			}
			var want map[string]any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, r.body); diff != "" {
				t.Errorf("message mismatch (-want +got):\n%s", diff)
			}
			if r.query.Get("access_token") != "t0ken" || r.query.Has("sign") {
				t.Errorf("query is %v", r.query)
			}
		})
	}
}

// The expected signature was computed with OpenSSL:
//
//	printf '1700000000000\nSECabc' | openssl dgst -sha256 -hmac SECabc -binary | base64
func TestSign(t *testing.T) {
	t.Parallel()
	r := &receiver{answer: ok}
	robot := dingtalk.Robot{Webhook: start(t, r), Secret: "SECabc"}
	if err := client().Send(t.Context(), robot, dingtalk.Text("x")); err != nil {
		t.Fatal(err)
	}
	want := url.Values{"access_token": {"t0ken"}, "timestamp": {"1700000000000"}, "sign": {"jcUpW0QmtKduN03n4JqQ0PBosVjqnM8gU7fIIvsDmCM="}}
	if diff := cmp.Diff(want, r.query); diff != "" {
		t.Errorf("query mismatch (-want +got):\n%s", diff)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		answer string
		kind   error
		want   string
	}{
		{"token", 0, `{"errcode":300001,"errmsg":"token is not exist"}`, errs.Denied, "dingtalk: error 300001: token is not exist"},
		{"signature", 0, `{"errcode":310000,"errmsg":"sign not match"}`, errs.Denied, "dingtalk: error 310000: sign not match"},
		{"too fast", 0, `{"errcode":130101,"errmsg":"send too fast"}`, errs.Unavailable, "dingtalk: error 130101: send too fast"},
		{"not DingTalk", 0, "hello", errs.Unavailable, "dingtalk: the answer (200 OK) is not DingTalk's"},
		{"no code", 0, "{}", errs.Unavailable, "dingtalk: the answer (200 OK) is not DingTalk's"},
		{"redirect", http.StatusFound, "", errs.Unavailable, "dingtalk: the answer (302 Found) is not DingTalk's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			robot := dingtalk.Robot{Webhook: start(t, &receiver{status: tt.status, answer: tt.answer})}
			err := client().Send(t.Context(), robot, dingtalk.Text("x"))
			if err == nil || err.Error() != tt.want || !errors.Is(err, tt.kind) {
				t.Errorf("Send: %v, want %q of kind %v", err, tt.want, tt.kind)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		webhook string
		message dingtalk.Message
		want    string
		hint    string
	}{
		{"type", "https://example.com", dingtalk.Message{Type: "markdwn", Payload: 1}, `dingtalk: unknown msgtype "markdwn"`, "did you mean markdown?"},
		{"payload", "https://example.com", dingtalk.Message{Type: "link"}, "dingtalk: a link message without payload", ""},
		{"no address", "t0ken", dingtalk.Text("x"), "dingtalk: the webhook is not an http address", "copy it"},
		{"scheme", "file:///t0ken", dingtalk.Text("x"), "dingtalk: the webhook is not an http address", "copy it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := client().Send(t.Context(), dingtalk.Robot{Webhook: tt.webhook}, tt.message)
			if err == nil || err.Error() != tt.want || !errors.Is(err, errs.Invalid) || !strings.HasPrefix(errs.HintOf(err), tt.hint) {
				t.Errorf("Send: %v (%s), want %q (%s)", err, errs.HintOf(err), tt.want, tt.hint)
			}
		})
	}
}

// An address with its token would otherwise stand in the error of net/http.
func TestErrorsKeepTheTokenSecret(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	robot := dingtalk.Robot{Webhook: server.URL + "?access_token=t0ken"}
	err := client().Send(t.Context(), robot, dingtalk.Text("x"))
	if err == nil || strings.Contains(err.Error(), "t0ken") || !errors.Is(err, errs.Unavailable) {
		t.Errorf("Send: %v", err)
	}
	cause := errors.New("no time left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	err = client().Send(ctx, robot, dingtalk.Text("x"))
	if !errors.Is(err, cause) || strings.Contains(err.Error(), "t0ken") {
		t.Errorf("Send: %v, want %v in it", err, cause)
	}
}
