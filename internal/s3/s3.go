// Package s3 reads and writes objects in buckets of S3, and of what speaks like it: OSS, MinIO, Ceph.
//
//	b := s3.Bucket{Endpoint: "https://s3.example.com", Name: "cache", Region: "us-east-1", …}
//	err := b.Put(ctx, "a/b", file)
//	r, err := b.Get(ctx, "a/b") // errs.NotFound when there is none
//
// Requests are signed by AWS's fourth version of signatures, with the digest of what is sent. An object is sent in one request,
// which S3 takes up to 5 GiB. The package knows nothing else of S3: no listing, no versions, no policies. It is here because
// the libraries for S3 cost more at the start of every process, of which slipway starts one for each step, than all else.
package s3

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
)

// maxObject is what S3 takes in one request.
const maxObject = 5 << 30

// maxError bounds what is read of an error's text.
const maxError = 64 << 10

// tries is how often a request is made that a server could not answer.
const tries = 3

// Bucket is a bucket and whoever uses it. Its methods may be called at once.
type Bucket struct {
	// Endpoint is the server, as https://s3.example.com.
	Endpoint string
	Name     string
	// Region is part of the signature. Default: us-east-1, which servers that have no regions expect.
	Region string
	// HostStyle puts the bucket's name before the server's, and not into the path. Servers of clouds want it so.
	HostStyle bool

	KeyID, Secret, Token string

	// HTTP sends the requests; redirects are not followed. Default: http.DefaultTransport.
	HTTP http.RoundTripper
	// Now is the clock: servers refuse signatures that are some minutes off. Required.
	Now func() time.Time
	// Pause is how long to wait before another try. Default: not at all.
	Pause time.Duration
}

// Get reads an object. The error is of kind errs.NotFound when there is none, errs.Denied when the bucket refuses.
func (b *Bucket) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	response, err := b.do(ctx, http.MethodGet, name, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s from bucket %s: %w", name, b.Name, err)
	}
	return response.Body, nil
}

// Put writes a file as an object, in place of an older one.
func (b *Bucket) Put(ctx context.Context, name string, file *os.File) error {
	body := &payload{file: file}
	h := sha256.New()
	var err error
	if body.size, err = io.Copy(h, file); err != nil {
		return fmt.Errorf("put %s into bucket %s: %w", name, b.Name, err)
	}
	if body.size > maxObject {
		return fmt.Errorf("put %s into bucket %s: %d bytes are more than the %d of one object: %w", name, b.Name, body.size, int64(maxObject), errs.Invalid)
	}
	body.sum = hex.EncodeToString(h.Sum(nil))
	response, err := b.do(ctx, http.MethodPut, name, body)
	if err == nil {
		err = response.Body.Close()
	}
	if err != nil {
		return fmt.Errorf("put %s into bucket %s: %w", name, b.Name, err)
	}
	return nil
}

// payload is what a request sends.
type payload struct {
	file *os.File
	size int64
	sum  string
}

// emptySum is the SHA-256 of nothing.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func (b *Bucket) do(ctx context.Context, method, name string, body *payload) (*http.Response, error) {
	client := http.Client{Transport: b.HTTP, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for try := 1; ; try++ {
		request, err := b.request(ctx, method, name, body)
		if err != nil {
			return nil, err
		}
		response, err := client.Do(request)
		if ctx.Err() != nil {
			if err == nil {
				err = response.Body.Close()
			}
			return nil, errors.Join(context.Cause(ctx), err)
		}
		switch {
		case err != nil:
			err = errs.Mark(withoutURL(err), errs.Unavailable)
		case response.StatusCode/100 == 2:
			return response, nil
		default:
			err = failure(response)
		}
		if try == tries || !errors.Is(err, errs.Unavailable) {
			return nil, err
		}
		timer := time.NewTimer(b.Pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// withoutURL drops the address from an error of net/http: the bucket and the object are named already.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func (b *Bucket) request(ctx context.Context, method, name string, body *payload) (*http.Request, error) {
	u, err := url.Parse(b.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || b.Name == "" || strings.ContainsAny(b.Name, "/?#@:") {
		return nil, errs.Mark(fmt.Errorf("%q is no endpoint, or %q no bucket", b.Endpoint, b.Name), errs.Invalid)
	}
	u.Path = "/" + b.Name + "/" + name
	if b.HostStyle {
		u.Host, u.Path = b.Name+"."+u.Host, "/"+name
	}
	u.RawPath, u.RawQuery, u.User = escape(u.Path), "", nil
	request, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, errs.Mark(withoutURL(err), errs.Invalid)
	}
	sum := emptySum
	if body != nil {
		sum = body.sum
		request.Body = io.NopCloser(io.NewSectionReader(body.file, 0, body.size))
		request.ContentLength = body.size
	}
	b.sign(request, sum)
	return request, nil
}

// answers are the codes that say what kind of failure it is; the status alone says less.
func failure(response *http.Response) (err error) {
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	var answer struct{ Code, Message string }
	data, _ := io.ReadAll(io.LimitReader(response.Body, maxError)) // what is missing is missing in the message
	_ = xml.Unmarshal(data, &answer)                               // so is what is not XML
	text := strings.TrimSpace(response.Status + " " + answer.Code + ": " + answer.Message)
	err = errors.New(strings.TrimSuffix(text, ":"))
	switch status := response.StatusCode; {
	case answer.Code == "NoSuchKey" || status == http.StatusNotFound && answer.Code == "":
		return errs.Mark(err, errs.NotFound)
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return errs.Mark(err, errs.Denied)
	case status == http.StatusTooManyRequests || status >= 500:
		return errs.Mark(err, errs.Unavailable)
	default:
		return err
	}
}

// sign adds AWS's signature to a request whose body has the given SHA-256.
func (b *Bucket) sign(r *http.Request, sum string) {
	region := b.Region
	if region == "" {
		region = "us-east-1"
	}
	now := b.Now().UTC()
	day := now.Format("20060102")
	r.Header.Set("X-Amz-Date", now.Format("20060102T150405Z"))
	r.Header.Set("X-Amz-Content-Sha256", sum)
	if b.Token != "" {
		r.Header.Set("X-Amz-Security-Token", b.Token)
	}
	if b.KeyID == "" {
		return // a bucket for everybody
	}
	headers := map[string]string{"host": r.URL.Host}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.TrimSpace(strings.Join(values, ","))
	}
	names := slices.Sorted(maps.Keys(headers))
	var canonical strings.Builder
	canonical.WriteString(r.Method + "\n" + r.URL.EscapedPath() + "\n\n")
	for _, name := range names {
		canonical.WriteString(name + ":" + headers[name] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + sum)
	digest := sha256.Sum256([]byte(canonical.String()))
	scope := day + "/" + region + "/s3/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + hex.EncodeToString(digest[:])
	key := []byte("AWS4" + b.Secret)
	for _, part := range []string{day, region, "s3", "aws4_request"} {
		key = code(key, part)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+b.KeyID+"/"+scope+",SignedHeaders="+signed+",Signature="+hex.EncodeToString(code(key, text)))
}

func code(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// escape writes a path as signatures want it: everything but letters, digits and -._~/ in hexadecimal.
func escape(path string) string {
	var out strings.Builder
	for i := range len(path) {
		c := path[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			out.WriteByte(c)
			continue
		}
		fmt.Fprintf(&out, "%%%02X", c)
	}
	return out.String()
}
