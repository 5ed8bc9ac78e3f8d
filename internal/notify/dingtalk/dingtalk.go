// Package dingtalk sends messages to DingTalk groups, through the webhook of a custom robot.
//
//	c := dingtalk.Client{HTTP: client, Now: time.Now}
//	err := c.Send(ctx, dingtalk.Robot{Webhook: url, Secret: secret}, dingtalk.Text("deployed"))
//
// A webhook's address carries its access token, so it is a secret like the signing secret: no error of this package
// holds either. The package sends; what to say and when is its caller's to know. It does not retry: DingTalk counts every
// call against a quota of 20 a minute.
package dingtalk

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"slipway/internal/errs"
	"slipway/internal/suggest"
)

// maxReply bounds what is read of an answer, which is a line of JSON.
const maxReply = 64 << 10

// Robot is a custom robot of a group.
type Robot struct {
	// Webhook is the robot's address with its access token.
	Webhook string
	// Secret signs the messages. Default: they are not signed, for robots that are secured by keyword or address.
	Secret string
}

// Client sends messages. Its method may be called from several goroutines at once.
type Client struct {
	// HTTP sends the requests; redirects are not followed. Default: http.DefaultTransport.
	HTTP http.RoundTripper
	// Now is the clock: DingTalk refuses a signature that is more than an hour off. Required.
	Now func() time.Time
}

// Send sends m. The error is of kind errs.Invalid when the webhook or the message cannot be right, errs.Denied when
// DingTalk refuses the token, the signature or the content, errs.Unavailable when it cannot be reached or has had enough.
func (c *Client) Send(ctx context.Context, robot Robot, m Message) error {
	if err := m.Check(); err != nil {
		return err
	}
	address, err := robot.address(c.Now())
	if err != nil {
		return err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return errs.Mark(fmt.Errorf("dingtalk: %s message: %w", m.Type, err), errs.Invalid)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return errs.Mark(fmt.Errorf("dingtalk: %w", withoutURL(err)), errs.Invalid)
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	client := http.Client{Transport: c.HTTP, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	response, err := client.Do(request)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	return outcome(response.StatusCode, reply)
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dingtalk: %w", context.Cause(ctx))
	}
	return errs.Mark(fmt.Errorf("dingtalk: %w", withoutURL(err)), errs.Unavailable)
}

// withoutURL takes the address out of an error of net/http.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// address is the webhook, signed for the moment when there is a secret.
func (r Robot) address(now time.Time) (string, error) {
	u, err := url.Parse(r.Webhook)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		err := errs.Mark(errors.New("dingtalk: the webhook is not an http address"), errs.Invalid)
		return "", errs.Hint(err, "copy it from the robot's settings: https://oapi.dingtalk.com/robot/send?access_token=…")
	}
	if r.Secret == "" {
		return u.String(), nil
	}
	timestamp := strconv.FormatInt(now.UnixMilli(), 10)
	query := u.Query()
	query.Set("timestamp", timestamp)
	query.Set("sign", sign(timestamp, r.Secret))
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// sign is DingTalk's signature of a moment: the secret is both the key and a part of the text.
func sign(timestamp, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + "\n" + secret))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// outcome reads DingTalk's answer, which is 200 for failures too.
func outcome(status int, reply []byte) error {
	var answer struct {
		Code    *int   `json:"errcode"`
		Message string `json:"errmsg"`
	}
	if err := json.Unmarshal(reply, &answer); err != nil || answer.Code == nil {
		return errs.Mark(fmt.Errorf("dingtalk: the answer (%d %s) is not DingTalk's", status, http.StatusText(status)), errs.Unavailable)
	}
	err := fmt.Errorf("dingtalk: error %d: %s", *answer.Code, answer.Message)
	switch *answer.Code {
	case 0:
		return nil
	case 300001, 300005, 400101, 400102: // no such token, or the robot was switched off or removed
		return errs.Hint(errs.Mark(err, errs.Denied), "check the webhook's access_token in the robot's settings")
	case 310000: // keyword, signature or address
		return errs.Hint(errs.Mark(err, errs.Denied), "the robot's security settings refuse the message: check secret, keywords and addresses")
	case 130101, 410100, -1: // too many messages, or busy
		return errs.Mark(err, errs.Unavailable)
	default:
		return err
	}
}

// Message is what a robot says.
type Message struct {
	// Type is one of Types.
	Type string
	// Payload is what DingTalk documents below the key of the type's name, as something that marshals to a JSON object.
	Payload any
	At      At
}

// At says whom a message mentions.
type At struct {
	Mobiles []string `json:"atMobiles,omitempty"`
	UserIDs []string `json:"atUserIds,omitempty"`
	All     bool     `json:"isAtAll,omitempty"`
}

// Types are the types of message that a robot can send.
func Types() []string { return []string{"text", "link", "markdown", "actionCard", "feedCard"} }

// Text is a message of plain text.
func Text(content string) Message {
	return Message{Type: "text", Payload: map[string]string{"content": content}}
}

// Check says what is wrong with the message: an unknown type, or nothing to say. It is of kind errs.Invalid.
func (m Message) Check() error {
	if !slices.Contains(Types(), m.Type) {
		err := errs.Mark(fmt.Errorf("dingtalk: unknown msgtype %q", m.Type), errs.Invalid)
		if near := suggest.Nearest(m.Type, slices.Values(Types())); near != "" {
			return errs.Hint(err, "did you mean "+near+"?")
		}
		return errs.Hint(err, fmt.Sprintf("it is one of %q", Types()))
	}
	if m.Payload == nil {
		return errs.Mark(fmt.Errorf("dingtalk: a %s message without payload", m.Type), errs.Invalid)
	}
	return nil
}

// MarshalJSON gives the message the form that DingTalk takes: the payload under the name of its type.
func (m Message) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"msgtype": m.Type, m.Type: m.Payload, "at": m.At})
}
