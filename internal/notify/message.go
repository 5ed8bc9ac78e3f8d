package notify

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"slipway/internal/errs"
	"slipway/internal/notify/dingtalk"
	"slipway/internal/pipeline"
)

// maxText is what a message may have: DingTalk takes 20,000 bytes.
const maxText = 20_000

// defaultText is said when the file says nothing.
const defaultText = `{{ .pipeline.name }}: {{ .currentTask.displayName }} {{ .currentTask.status.phase }}{{ if .error }}
{{ .error }}{{ end }}`

// facts are what a text may speak of. The first three are the hosted system's words.
func facts(p *pipeline.Pipeline, t *pipeline.Task, e pipeline.Event, began time.Time) map[string]any {
	problem := ""
	if e.Status != pipeline.Succeeded {
		problem = e.Text
	}
	return map[string]any{
		"success": e.Status == pipeline.Succeeded,
		"error":   problem,
		"currentTask": map[string]any{
			"name":        t.Name,
			"displayName": t.DisplayName(),
			"status": map[string]any{
				"phase":           phase(e.Status),
				"latestExecError": map[string]any{"message": problem},
			},
			"image":    e.Output.Image,
			"digest":   e.Output.Digest,
			"duration": pipeline.Duration(e.Time.Sub(began).Round(time.Second)),
		},
		"pipeline": map[string]any{"name": p.Name, "description": p.Description, "labels": p.Labels},
	}
}

// sample are facts for finding mistakes in a text before it is needed.
func sample(t *pipeline.Task) map[string]any {
	e := pipeline.Event{Status: pipeline.Failed, Text: "text"}
	return facts(&pipeline.Pipeline{Name: "name", Labels: map[string]string{}}, t, e, time.Time{})
}

// phase is a status in the hosted system's words.
func phase(s pipeline.Status) string {
	switch s {
	case pipeline.Succeeded:
		return "Success"
	case pipeline.Canceled:
		return "Canceled"
	default:
		return "Failed"
	}
}

// Checker finds mistakes in the notifications of tasks.
type Checker struct{}

// Check reports mistakes in a task's dingdingNotification when it is enabled. A text may hold fields, such as
// {{ .currentTask.name }}, functions, if and with; range and named templates, by which a few lines could keep a machine
// busy for long, are refused.
func (Checker) Check(t *pipeline.Task, report pipeline.Report) {
	config := t.Data.Get("dingdingNotification")
	if !config.Get("enable").Bool() {
		return
	}
	if webhook := config.Get("webhook"); webhook.String() == "" {
		report(t.Data.KeyAt("dingdingNotification"), "dingdingNotification is enabled and has no webhook", "add webhook: the robot's address")
	}
	if _, err := render(config.Get("message"), sample(t)); err != nil {
		at := config.Get("message").At(t.Data.KeyAt("dingdingNotification"))
		if m, ok := errors.AsType[mistake](err); ok {
			at = m.at
		}
		report(at, err.Error(), errs.HintOf(err))
	}
}

// mistake is an error with its place in the file.
type mistake struct {
	error
	at pipeline.Origin
}

func (m mistake) Unwrap() error { return m.error }

// render makes the message for some facts.
func render(v *pipeline.Value, facts map[string]any) (dingtalk.Message, error) {
	m := dingtalk.Message{Type: "text", At: mentions(v.Get("at"))}
	if kind := v.Get("msgtype").String(); kind != "" {
		m.Type = kind
	}
	body := v.Get(m.Type)
	switch {
	case body.Absent() && m.Type == "text":
		said, err := execute(defaultText, pipeline.Origin{}, facts)
		if err != nil {
			return m, fmt.Errorf("[bug] the default message: %w", err)
		}
		m.Payload = map[string]string{"content": said}
	case body.Absent(): // Check says what is missing
	case m.Type == "text" && body.Kind < pipeline.List:
		said, err := execute(body.String(), body.Origin, facts)
		if err != nil {
			return m, err
		}
		m.Payload = map[string]string{"content": said}
	default:
		payload, err := fill(body, facts)
		if err != nil {
			return m, err
		}
		m.Payload = payload
	}
	return m, m.Check()
}

func mentions(v *pipeline.Value) dingtalk.At {
	return dingtalk.At{Mobiles: v.Get("atMobiles").Strings(), UserIDs: v.Get("atUserIds").Strings(), All: v.Get("isAtAll").Bool()}
}

// fill renders every text of a payload.
func fill(v *pipeline.Value, facts map[string]any) (any, error) {
	switch {
	case v.Absent():
		return nil, nil
	case v.Kind == pipeline.Bool:
		return v.Bool(), nil
	case v.Kind == pipeline.String:
		return execute(v.Text, v.Origin, facts)
	case v.Kind == pipeline.List:
		list := []any{}
		for _, item := range v.Items {
			one, err := fill(item, facts)
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, nil
	case v.Kind == pipeline.Map:
		out := map[string]any{}
		for _, m := range v.Members {
			one, err := fill(m.Value, facts)
			if err != nil {
				return nil, err
			}
			out[m.Key] = one
		}
		return out, nil
	default:
		return v.Text, nil // a number as it is written
	}
}

// execute renders one text.
func execute(text string, at pipeline.Origin, facts map[string]any) (string, error) {
	t, err := template.New("message").Option("missingkey=error").Parse(text)
	if err == nil && len(t.Templates()) > 1 {
		err = errNamed
	}
	if err == nil && t.Tree != nil {
		err = allowed(t.Root)
	}
	if err != nil {
		return "", mistake{readable(err), at}
	}
	var out strings.Builder
	if err := t.Execute(&bounded{&out}, facts); err != nil {
		return "", mistake{readable(err), at}
	}
	return out.String(), nil
}

var errNamed = errors.New("a message cannot define templates")

// allowed refuses what repeats.
func allowed(node parse.Node) error {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, one := range n.Nodes {
			if err := allowed(one); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return errors.Join(allowed(n.List), allowed(n.ElseList))
	case *parse.WithNode:
		return errors.Join(allowed(n.List), allowed(n.ElseList))
	case *parse.TextNode, *parse.ActionNode, *parse.CommentNode:
	default:
		word, _, _ := strings.Cut(node.String(), " ")
		return fmt.Errorf("%s}} has no place in a message", word)
	}
	return nil
}

// bounded ends a text that is too long for DingTalk, whatever makes it so.
type bounded struct{ out *strings.Builder }

func (b *bounded) Write(p []byte) (int, error) {
	if b.out.Len()+len(p) > maxText {
		return 0, errors.New("it is longer than " + strconv.Itoa(maxText) + " bytes")
	}
	return b.out.Write(p)
}

// readable takes out of an error of text/template what only a programmer would understand.
func readable(err error) error {
	text := err.Error()
	if _, after, ok := strings.Cut(text, `map has no entry for key `); ok {
		known := []string{".success", ".error", ".currentTask.name", ".currentTask.status.phase", ".pipeline.name"}
		return errs.Hint(errors.New("the message speaks of "+after+", which is not known"), "there is "+strings.Join(known, ", ")+" and more")
	}
	words := strings.Split(text, ": ")
	return errors.New("the message: " + strings.Join(words[min(len(words)-1, slices.Index(words, "template")+2):], ": "))
}
