package serverless

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
)

// emailPlugin sends a mail.
func emailPlugin() *plugin {
	return &plugin{
		name: scope + "send-email", inputs: []string{"config", "mail"}, required: []string{"config", "mail"},
		check: func(in *pipeline.Value, report pipeline.Report) {
			service := in.Get("config", "service")
			if _, known := services()[strings.ToLower(service.String())]; !service.Absent() && !known && len(service.Marks) == 0 {
				report(service.Origin, "unknown mail service "+service.String(), nearest(service.String(), slices.Sorted(maps.Keys(services())), "services")+"; others by host")
			}
		},
		run: sendEmail,
	}
}

// services are the servers of mail providers that pipelines name; all of them speak TLS on port 465.
func services() map[string]string {
	return map[string]string{
		"126": "smtp.126.com", "163": "smtp.163.com", "aliyun": "smtp.aliyun.com", "gmail": "smtp.gmail.com",
		"qq": "smtp.qq.com", "qqex": "smtp.exmail.qq.com",
	}
}

const (
	securePort = "465" // TLS from the first byte
	submitPort = "587" // STARTTLS
)

// sendTimeout bounds the talk with a server, which may be slow, and may say nothing.
const sendTimeout = time.Minute

// letter is a mail and who takes it.
type letter struct {
	host, port  string
	secure      bool // TLS from the first byte
	user, pass  string
	from        string
	to          []string
	data        []byte
	certificate *tls.Config
}

func sendEmail(ctx context.Context, c *call) (map[string]any, error) {
	l, err := c.letter()
	if err != nil {
		return nil, errs.Mark(fmt.Errorf("send-email: %w", err), errs.Invalid)
	}
	c.mask.add(l.pass)
	ctx, cancel := context.WithTimeoutCause(ctx, sendTimeout, fmt.Errorf("no answer from %s within %s: %w", l.host, pipeline.Duration(sendTimeout), errs.Unavailable))
	defer cancel()
	if err := l.send(ctx); err != nil {
		return nil, fmt.Errorf("send a mail by %s: %w", l.host, err)
	}
	c.log.printf("sent a mail to %s", strings.Join(l.to, ", "))
	return nil, nil
}

func (c *call) letter() (*letter, error) {
	config, _ := c.inputs["config"].(map[string]any)
	content, _ := c.inputs["mail"].(map[string]any)
	get := func(m map[string]any, name string) string { return expr.Text(m[name]) }
	l := &letter{
		host: first(get(config, "host"), services()[strings.ToLower(get(config, "service"))]),
		port: get(config, "port"), user: get(config, "user"), pass: get(config, "pass"),
	}
	if l.host == "" {
		return nil, errors.New("config has neither host nor service")
	}
	l.secure = get(config, "secure") == "true" || l.port == securePort || l.port == "" && get(config, "secure") == "" && get(config, "host") == ""
	if l.port == "" {
		l.port = submitPort
		if l.secure {
			l.port = securePort
		}
	}
	from, err := mail.ParseAddress(get(content, "from"))
	if err != nil {
		return nil, fmt.Errorf("mail.from: %w", err)
	}
	l.from = from.Address
	if l.user == "" {
		l.user = from.Address
	}
	headers := [][2]string{{"From", from.String()}}
	for _, field := range []string{"to", "cc", "bcc"} {
		text := strings.Join((&call{inputs: content}).texts(field), ", ")
		if text == "" {
			continue
		}
		list, err := mail.ParseAddressList(text)
		if err != nil {
			return nil, fmt.Errorf("mail.%s: %w", field, err)
		}
		var shown []string
		for _, a := range list {
			l.to, shown = append(l.to, a.Address), append(shown, a.String())
		}
		if field != "bcc" {
			headers = append(headers, [2]string{textproto.CanonicalMIMEHeaderKey(field), strings.Join(shown, ", ")})
		}
	}
	if len(l.to) == 0 {
		return nil, errors.New("mail.to is missing")
	}
	kind, body := "text/html", get(content, "html")
	if body == "" {
		kind, body = "text/plain", get(content, "text")
	}
	headers = append(headers, [2]string{"Subject", mime.QEncoding.Encode("utf-8", get(content, "subject"))},
		[2]string{"Date", c.opts.Now().Format(time.RFC1123Z)}, [2]string{"MIME-Version", "1.0"},
		[2]string{"Content-Type", kind + "; charset=utf-8"}, [2]string{"Content-Transfer-Encoding", "base64"})
	l.data = compose(headers, body)
	return l, nil
}

// compose writes a mail. The body is in base64: its lines are short then, and none of them ends the mail.
func compose(headers [][2]string, body string) []byte {
	var out strings.Builder
	for _, h := range headers {
		// A line break in a header would begin another one.
		out.WriteString(h[0] + ": " + strings.NewReplacer("\r", " ", "\n", " ").Replace(h[1]) + "\r\n")
	}
	out.WriteString("\r\n")
	for code := base64.StdEncoding.EncodeToString([]byte(body)); code != ""; {
		n := min(len(code), base64Line)
		out.WriteString(code[:n] + "\r\n")
		code = code[n:]
	}
	return []byte(out.String())
}

// send talks to the server. A password goes over TLS, or to this machine.
func (l *letter) send(ctx context.Context) (err error) {
	address := net.JoinHostPort(l.host, l.port)
	settings := &tls.Config{ServerName: l.host, MinVersion: tls.VersionTLS12}
	if l.certificate != nil {
		settings = l.certificate
	}
	var conn net.Conn
	if l.secure {
		conn, err = (&tls.Dialer{Config: settings}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return errs.Mark(cause(ctx, err), errs.Unavailable)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // the talk then ends with an error of its own
	client, err := smtp.NewClient(conn, l.host)
	if err != nil {
		return errors.Join(cause(ctx, err), conn.Close())
	}
	if err := l.talk(client, settings); err != nil {
		return errors.Join(cause(ctx, err), ignoreClosed(client.Close()))
	}
	return cause(ctx, client.Quit())
}

func (l *letter) talk(client *smtp.Client, settings *tls.Config) error {
	if ok, _ := client.Extension("STARTTLS"); ok && !l.secure {
		if err := client.StartTLS(settings); err != nil {
			return err
		}
	}
	if ok, _ := client.Extension("AUTH"); ok && l.pass != "" {
		if err := client.Auth(smtp.PlainAuth("", l.user, l.pass, l.host)); err != nil {
			return errs.Mark(fmt.Errorf("sign in as %s: %w", l.user, err), errs.Denied)
		}
	}
	if err := client.Mail(l.from); err != nil {
		return err
	}
	for _, to := range l.to {
		if err := client.Rcpt(to); err != nil {
			return fmt.Errorf("%s: %w", to, err)
		}
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	_, err = w.Write(l.data)
	return errors.Join(err, w.Close())
}

// cause prefers the reason for which a talk was ended to what ended talks look like.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
