package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"slipway/internal/errs"
)

// statusError is an answer that says no.
type statusError struct {
	status        int
	code, message string
	retryAfter    time.Duration
}

// Error reads as "403 denied: requested access to the resource is denied".
func (e *statusError) Error() string {
	what := strings.ToLower(strings.ReplaceAll(e.code, "_", " "))
	if what == "" {
		what = strings.ToLower(http.StatusText(e.status))
	}
	text := strings.TrimSpace(strconv.Itoa(e.status) + " " + what)
	if e.message != "" {
		text += ": " + e.message
	}
	return text
}

// Unwrap returns the kind that the status means to callers.
func (e *statusError) Unwrap() error {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return errs.Denied
	case http.StatusNotFound:
		return errs.NotFound
	case http.StatusPreconditionFailed:
		return errs.Conflict
	case http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage:
		return errs.Limit
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return errs.Unavailable
	}
	return nil
}

const (
	maxErrorBody    = 64 << 10
	maxErrorMessage = 300
)

// newStatusError reads what the registry says about its refusal, and closes the answer. secrets are taken out of it.
func newStatusError(resp *http.Response, secrets ...string) error {
	defer resp.Body.Close()
	e := &statusError{status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	// A body that breaks off still tells what it tells.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		e.code, e.message = clean(doc.Errors[0].Code, secrets), clean(doc.Errors[0].Message, secrets)
	} else if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		e.message = clean(string(body), secrets)
	}
	return e
}

// clean makes a stranger's text fit for a line of an error message.
func clean(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxErrorMessage {
		s = strings.ToValidUTF8(s[:maxErrorMessage], "") + "…"
	}
	return s
}

// retryAfter reads seconds or a date (RFC 9110 §10.2.3).
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseInt(header, 10, 32); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// final is an error that trying again does not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// networkError makes an error of net/http one of ours: without the URL, whose query may be a secret, and with a kind.
func networkError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if source, ok := errors.AsType[sourceError](err); ok {
		return source
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return errs.Hint(err, "if you trust this network, name the registry with --insecure-registry")
	}
	if errors.Is(err, io.EOF) { // not to be taken for the end of what is read
		err = fmt.Errorf("the connection was closed: %w", io.ErrUnexpectedEOF)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return final{errs.Mark(err, errs.Unavailable)}
	}
	return errs.Mark(err, errs.Unavailable)
}

// retryable says whether the same request may succeed later.
func retryable(err error) bool {
	if _, ok := errors.AsType[final](err); ok {
		return false
	}
	return errors.Is(err, errs.Unavailable)
}

// lie is the error for content that is not what it was announced to be.
func lie(format string, args ...any) error {
	return errs.Mark(fmt.Errorf("registry lies: "+format, args...), errs.Corrupt)
}

// loginHint tells a person what to do about a refusal.
func (c *Client) loginHint(err error, registry string) error {
	if !errors.Is(err, errs.Denied) || errs.HintOf(err) != "" {
		return err
	}
	if c.opts.Hint != nil {
		if hint := c.opts.Hint(registry); hint != "" {
			return errs.Hint(err, hint)
		}
	}
	command := "docker login " + registry
	if registry == dockerHub {
		command = "docker login"
	}
	return errs.Hint(err, "check the name, and log in with an account that has access: "+command)
}

func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return 0
}
