package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"slipway/internal/deploy/function"
	"slipway/internal/errs"
)

// Bounds of Function Compute on what a request may be (custom-container contract, limits).
const (
	maxHeader = 8 << 10
	maxPath   = 4 << 10
	maxBody   = 32 << 20
)

// RequestID is the header that names a request.
const RequestID = "X-Fc-Request-Id"

// ErrorType is the header that tells a failure of the host, or of the function's process, from an answer of its program.
const ErrorType = "X-Fc-Error-Type"

// Handler answers requests for functions that have an HTTP trigger: PREFIX NAME/PATH goes to PATH of the function,
// PREFIX NAME.QUALIFIER/PATH to one of its versions or aliases.
func (h *Host) Handler(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := "rid-" + ulid.Make().String()
		w.Header().Set(RequestID, id) // refusals have one, too
		rest, ok := strings.CutPrefix(r.URL.EscapedPath(), prefix)
		name, path, _ := strings.Cut(rest, "/")
		if !ok || name == "" {
			refuse(w, http.StatusNotFound, "FunctionNotFound", "there is no function in the address")
			return
		}
		name, qualifier, _ := strings.Cut(name, ".")
		if err := h.allowed(name, r); err != nil {
			refuse(w, err.status, err.code, err.message)
			return
		}
		out := r.Clone(r.Context())
		target, err := url.ParseRequestURI("/" + path)
		if err != nil {
			refuse(w, http.StatusBadRequest, "InvalidArgument", "the path cannot be read")
			return
		}
		target.RawQuery = r.URL.RawQuery
		out.URL = target
		h.answer(w, out, name, qualifier, id, "/http-invoke")
	})
}

// refusal is an answer of the host itself.
type refusal struct {
	status        int
	code, message string
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set(ErrorType, code)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// What cannot be sent any more, nobody waits for.
	_ = json.NewEncoder(w).Encode(map[string]string{"ErrorCode": code, "ErrorMessage": message, "RequestId": w.Header().Get(RequestID)})
}

// allowed checks a request against the function's HTTP trigger.
func (h *Host) allowed(name string, r *http.Request) *refusal {
	e, ok := h.entry(name)
	if !ok {
		return &refusal{http.StatusNotFound, "FunctionNotFound", "function " + name + " is not deployed here"}
	}
	h.mu.Lock()
	triggers := e.record.Latest.Function.Triggers
	h.mu.Unlock()
	for _, t := range triggers {
		if t.Type != "http" || t.AuthType != "anonymous" {
			continue
		}
		if len(t.Methods) > 0 && !slices.Contains(t.Methods, r.Method) {
			return &refusal{http.StatusMethodNotAllowed, "MethodNotAllowed", "the trigger " + t.Name + " takes " + strings.Join(t.Methods, ", ")}
		}
		return nil
	}
	return &refusal{http.StatusForbidden, "AccessDenied", "function " + name + " has no anonymous http trigger"}
}

// answer has an instance answer a request whose URL is the function's.
func (h *Host) answer(w http.ResponseWriter, r *http.Request, name, qualifier, id, control string) {
	w.Header().Set(RequestID, id)
	if refused := tooLarge(r); refused != nil {
		refuse(w, refused.status, refused.code, refused.message)
		return
	}
	p, i, err := h.slot(r.Context(), name, qualifier)
	if err != nil {
		status, code := http.StatusServiceUnavailable, "FunctionNotStarted"
		if errors.Is(err, errs.NotFound) {
			status, code = http.StatusNotFound, "FunctionNotFound"
		}
		refuse(w, status, code, err.Error())
		return
	}
	defer p.release(i)
	f := &p.version.Function
	began := h.opts.Now()
	limit := fmt.Errorf("function %s did not answer within %d s", name, f.Timeout)
	ctx, cancel := context.WithTimeoutCause(r.Context(), f.Deadline(), limit)
	defer cancel()
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	proxy := &httputil.ReverseProxy{
		Transport: i.transport,
		Rewrite: func(out *httputil.ProxyRequest) {
			out.Out.URL.Scheme, out.Out.URL.Host = "http", "function"
			out.Out.Host = out.In.Host
			out.SetXForwarded()
			for key := range out.Out.Header {
				if strings.HasPrefix(key, "X-Fc-") {
					out.Out.Header.Del(key)
				}
			}
			p.contract(out.Out.Header, id, control)
		},
		ModifyResponse: func(res *http.Response) error {
			for _, key := range []string{"Date", "Server", "Keep-Alive", "Connection", RequestID, ErrorType} {
				res.Header.Del(key) // the host's own to say
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { h.failed(w, r, p, i, err) },
		// Streams reach the client as they come.
		FlushInterval: -1,
		ErrorLog:      nil,
	}
	p.log.line(i.id, "start "+id+" "+r.Method+" "+r.URL.Path)
	defer func() {
		// A broken answer is a panic of the proxy's, by net/http's rules; the instance is given back all the same.
		p.log.line(i.id, fmt.Sprintf("end %s %s", id, h.opts.Now().Sub(began).Round(time.Microsecond)))
	}()
	proxy.ServeHTTP(w, r)
	if errors.Is(context.Cause(ctx), limit) {
		p.discard(i, limit.Error())
	}
}

// failed answers for an instance that did not.
func (h *Host) failed(w http.ResponseWriter, r *http.Request, p *pool, i *instance, err error) {
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		refuse(w, http.StatusBadRequest, "InvalidArgument", "the body is larger than "+strconv.Itoa(maxBody)+" bytes")
		return
	}
	cause := context.Cause(r.Context())
	select {
	case <-i.process.Done():
		refuse(w, http.StatusServiceUnavailable, "FunctionProcessExited", "the instance ended: "+i.process.Err().Error())
		return
	default:
	}
	switch {
	case cause != nil && errors.Is(cause, context.Canceled):
		// the client went away
	case cause != nil:
		refuse(w, http.StatusGatewayTimeout, "FunctionTimeout", cause.Error())
	default:
		p.discard(i, err.Error())
		refuse(w, http.StatusBadGateway, "FunctionConnectionFailed", err.Error())
	}
}

// slot takes a slot of an instance. A version that is replaced just now is no reason to fail: the next one answers.
func (h *Host) slot(ctx context.Context, name, qualifier string) (*pool, *instance, error) {
	for {
		p, err := h.route(name, qualifier)
		if err != nil {
			return nil, nil, err
		}
		i, err := p.acquire(ctx)
		if errors.Is(err, errDraining) {
			if again, err := h.route(name, qualifier); err == nil && again != p {
				continue
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("function %s: %w", name, err)
		}
		return p, i, nil
	}
}

// contract sets the headers that every request of the contract has. Credentials are not among them.
func (p *pool) contract(header http.Header, id, control string) {
	f := &p.version.Function
	for key, value := range map[string]string{
		"X-Fc-Request-Id": id, "X-Fc-Control-Path": control, "X-Fc-Function-Name": f.Name, "X-Fc-Region": f.Region,
		"X-Fc-Function-Memory": strconv.FormatInt(f.Memory, 10), "X-Fc-Function-Timeout": strconv.Itoa(f.Timeout),
		"X-Fc-Version-Id": p.version.ID, "X-Fc-Qualifier": p.version.ID,
	} {
		header.Set(key, value)
	}
}

// tooLarge refuses what Function Compute would.
func tooLarge(r *http.Request) *refusal {
	size := 0
	for key, values := range r.Header {
		for _, v := range values {
			size += len(key) + len(v)
		}
	}
	switch {
	case size > maxHeader:
		return &refusal{http.StatusBadRequest, "InvalidArgument", "the headers are larger than " + strconv.Itoa(maxHeader) + " bytes"}
	case len(r.URL.RequestURI()) > maxPath:
		return &refusal{http.StatusBadRequest, "InvalidArgument", "path and query are longer than " + strconv.Itoa(maxPath) + " bytes"}
	case r.ContentLength > maxBody:
		return &refusal{http.StatusBadRequest, "InvalidArgument", "the body is larger than " + strconv.Itoa(maxBody) + " bytes"}
	default:
		return nil
	}
}

// Invocation is what an invoked function answered.
type Invocation struct {
	RequestID string `json:"requestId"`
	Status    int    `json:"status"`
	// Error is the kind of a failure that was not the program's own answer, or empty.
	Error string `json:"error,omitempty"`
	Body  []byte `json:"body"`
}

// Invoke sends an event to a function: POST /invoke with the event as its body.
func (h *Host) Invoke(ctx context.Context, name, qualifier string, event []byte) (Invocation, error) {
	if _, ok := h.entry(name); !ok {
		return Invocation{}, notDeployed(name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/invoke", bytes.NewReader(event))
	if err != nil {
		return Invocation{}, fmt.Errorf("invoke %s: %w", name, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	id := "rid-" + ulid.Make().String()
	w := &answer{header: http.Header{}, status: http.StatusOK}
	h.answer(w, req, name, qualifier, id, "/invoke")
	if w.err != nil {
		return Invocation{}, fmt.Errorf("invoke %s: %w", name, w.err)
	}
	return Invocation{RequestID: id, Status: w.status, Error: w.header.Get(ErrorType), Body: w.body.Bytes()}, nil
}

// answer collects an answer in memory, within the bound on bodies.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
	err    error
}

func (a *answer) Header() http.Header    { return a.header }
func (a *answer) WriteHeader(status int) { a.status = status }

func (a *answer) Write(data []byte) (int, error) {
	if a.body.Len()+len(data) > maxBody {
		a.err = fmt.Errorf("the answer is larger than %d bytes", maxBody)
		return 0, a.err
	}
	return a.body.Write(data)
}

var _ io.Writer = (*answer)(nil)

// Version is the version that a qualifier means now; requests may be shared out between two.
func (h *Host) Version(name, qualifier string) (function.Version, error) {
	p, err := h.route(name, qualifier)
	if err != nil {
		return function.Version{}, err
	}
	return p.version, nil
}
