package serverless

import (
	"context"
	"net/url"

	"slipway/internal/notify/dingtalk"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
)

// dingTalkPlugin sends a message to a DingTalk group.
func dingTalkPlugin() *plugin {
	return &plugin{
		name:   scope + "ding-talk",
		inputs: []string{"webhook", "secret", "at", "msgtype", "payload"}, required: []string{"webhook", "payload"}, secret: []string{"webhook", "secret"},
		check: func(in *pipeline.Value, report pipeline.Report) {
			kind := in.Get("msgtype")
			if kind.Absent() || len(kind.Marks) > 0 {
				return
			}
			if err := (dingtalk.Message{Type: kind.String(), Payload: in}).Check(); err != nil {
				report(kind.Origin, "msgtype cannot be "+kind.String(), nearest(kind.String(), dingtalk.Types(), "types"))
			}
		},
		run: func(ctx context.Context, c *call) (map[string]any, error) {
			if u, err := url.Parse(c.text("webhook")); err == nil {
				c.mask.add(u.Query().Get("access_token"))
			}
			m := dingtalk.Message{Type: c.text("msgtype"), Payload: c.inputs["payload"], At: c.at()}
			if m.Type == "" {
				m.Type = "text"
			}
			if text, ok := m.Payload.(string); ok && m.Type == "text" {
				m.Payload = map[string]any{"content": text}
			}
			if err := c.robots().Send(ctx, dingtalk.Robot{Webhook: c.text("webhook"), Secret: c.text("secret")}, m); err != nil {
				return nil, err
			}
			c.log.printf("sent a %s message", m.Type)
			return nil, nil
		},
	}
}

// at reads whom to mention.
func (c *call) at() dingtalk.At {
	in, _ := c.inputs["at"].(map[string]any)
	of := call{inputs: in}
	return dingtalk.At{Mobiles: of.texts("atMobiles"), UserIDs: of.texts("atUserIds"), All: expr.Text(in["isAtAll"]) == "true"}
}
