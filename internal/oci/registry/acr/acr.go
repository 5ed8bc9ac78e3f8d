// Package acr knows the container registries of Alibaba Cloud: how their addresses are made, and how an access key
// becomes the user name and password of a registry.
//
// A Keychain asks the API for a token that is good for an hour and keeps it until shortly before its end. An Enterprise
// instance is asked for by its id, which a pipeline names as instanceID, or else is looked up by the name in its host;
// the personal edition has none.
//
// The API is spoken to without Alibaba's SDK, of which three calls would be used, at the price of 2 MB of program, about
// 1 ms of every start, and some thirty modules. Its signature is what is hard to get right; a test holds ours to one of
// the SDK's.
package acr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"slipway/internal/errs"
)

// AccessKey is a key of an account, a RAM user or, with a Token, of an assumed role.
type AccessKey struct{ ID, Secret, Token string }

// Variables are the names under which Alibaba's own tools look for an access key in the environment.
func Variables() [3]string {
	return [3]string{"ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"}
}

// FromEnv reads an access key from the environment; ok is false when there is none.
func FromEnv(getenv func(string) string) (k AccessKey, ok bool) {
	names := Variables()
	k = AccessKey{getenv(names[0]), getenv(names[1]), getenv(names[2])}
	return k, k.ID != "" && k.Secret != ""
}

// api is a client of the registries' API.
type api struct {
	http     *http.Client
	endpoint string // scheme://host[:port]; "" for the region's own
	key      AccessKey
	now      func() time.Time
	nonce    func() string
}

const (
	enterpriseVersion = "2018-12-01"
	personalVersion   = "2016-06-07"
	// timeout bounds a call: whoever waits for it waits to push.
	timeout = 15 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 1 << 20
)

// password is a registry's user and password until a time.
type password struct {
	user, secret string
	until        time.Time
}

// authorization asks for an Enterprise instance's password.
func (a *api) authorization(ctx context.Context, region, instance string) (password, error) {
	var answer struct {
		TempUsername       string
		AuthorizationToken string
		ExpireTime         int64
	}
	err := a.call(ctx, request{
		method: http.MethodPost, region: region, path: "/", version: enterpriseVersion,
		action: "GetAuthorizationToken", query: url.Values{"InstanceId": {instance}},
	}, &answer)
	if err == nil && (answer.TempUsername == "" || answer.AuthorizationToken == "") {
		err = errors.New("the answer has no token")
	}
	if err != nil {
		return password{}, fmt.Errorf("get a token of ACR instance %s: %w", instance, err)
	}
	return password{answer.TempUsername, answer.AuthorizationToken, time.UnixMilli(answer.ExpireTime)}, nil
}

// instance looks an Enterprise instance up by name.
func (a *api) instance(ctx context.Context, region, name string) (string, error) {
	var answer struct {
		Instances []struct{ InstanceID, InstanceName, InstanceStatus string }
	}
	err := a.call(ctx, request{
		method: http.MethodPost, region: region, path: "/", version: enterpriseVersion,
		action: "ListInstance", query: url.Values{"InstanceName": {name}},
	}, &answer)
	if err != nil {
		return "", fmt.Errorf("look up ACR instance %s: %w", name, err)
	}
	for _, i := range answer.Instances {
		if i.InstanceName == name {
			if i.InstanceStatus != "RUNNING" {
				return "", fmt.Errorf("ACR instance %s (%s) is %s: %w", name, i.InstanceID, i.InstanceStatus, errs.Unavailable)
			}
			return i.InstanceID, nil
		}
	}
	err = fmt.Errorf("ACR has no instance %s in %s that this access key may see: %w", name, region, errs.Denied)
	return "", errs.Hint(err, "name the instance with instanceID, or acrInstances in the configuration, and allow cr:ListInstance or cr:GetAuthorizationToken")
}

// personal asks for the password of the personal edition.
func (a *api) personal(ctx context.Context, region string) (password, error) {
	var answer struct {
		Data struct {
			AuthorizationToken string `json:"authorizationToken"`
			TempUserName       string `json:"tempUserName"`
			ExpireDate         int64  `json:"expireDate"`
		} `json:"data"`
	}
	err := a.call(ctx, request{
		method: http.MethodGet, region: region, path: "/tokens", version: personalVersion, action: "GetAuthorizationToken",
	}, &answer)
	if err == nil && (answer.Data.TempUserName == "" || answer.Data.AuthorizationToken == "") {
		err = errors.New("the answer has no token")
	}
	if err != nil {
		return password{}, fmt.Errorf("get a token of ACR in %s: %w", region, err)
	}
	return password{answer.Data.TempUserName, answer.Data.AuthorizationToken, time.UnixMilli(answer.Data.ExpireDate)}, nil
}

// request is one call.
type request struct {
	method, region, path, version, action string
	query                                 url.Values
}

// call makes a request and reads its answer. Errors hold neither key nor signature.
func (a *api) call(ctx context.Context, r request, answer any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errs.Mark(fmt.Errorf("no answer within %s", timeout), errs.Unavailable))
	defer cancel()
	base := a.endpoint
	if base == "" {
		base = "https://cr." + r.region + ".aliyuncs.com"
	}
	target, err := url.Parse(base)
	if err != nil || target.Host == "" {
		return errs.Mark(fmt.Errorf("the endpoint %q is no address", base), errs.Invalid)
	}
	target.Path, target.RawQuery = r.path, canonicalQuery(r.query)
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", target.Host, withoutURL(err))
	}
	sign(req, r, a.key, a.now(), a.nonce())
	resp, err := a.http.Do(req)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("ask %s: %w", target.Host, context.Cause(ctx))
	case err != nil:
		return errs.Mark(fmt.Errorf("ask %s: %w", target.Host, withoutURL(err)), errs.Unavailable)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return errs.Mark(fmt.Errorf("ask %s: %w", target.Host, err), errs.Unavailable)
	}
	if resp.StatusCode != http.StatusOK {
		return refused(resp.StatusCode, r.action, body)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return errs.Mark(fmt.Errorf("ask %s: the answer is not the JSON that it should be", target.Host), errs.Unavailable)
	}
	return nil
}

func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// refused words what the API says about a refusal, and names the right that is missing.
func refused(status int, action string, body []byte) error {
	var said struct{ Code, Message string }
	_ = json.Unmarshal(body, &said) // what is no JSON says nothing
	names := Variables()
	err := fmt.Errorf("%d %s: %s", status, said.Code, strings.Join(strings.Fields(said.Message), " "))
	switch {
	case strings.HasPrefix(said.Code, "Forbidden"), strings.HasPrefix(said.Code, "NoPermission"), strings.Contains(said.Code, "NO_PERMISSION"):
		return errs.Hint(errs.Mark(err, errs.Denied), "attach the policy "+fullAccess+" to the RAM user or role of the access key, or allow it cr:"+action)
	case strings.HasPrefix(said.Code, "InvalidAccessKeyId"), strings.HasPrefix(said.Code, "SignatureDoesNotMatch"), strings.HasPrefix(said.Code, "InvalidSecurityToken"), strings.HasPrefix(said.Code, "IncompleteSignature"), status == http.StatusUnauthorized:
		return errs.Hint(errs.Mark(err, errs.Denied), "check "+strings.Join(names[:], ", "))
	case status >= http.StatusInternalServerError, status == http.StatusTooManyRequests, strings.HasPrefix(said.Code, "Throttling"):
		return errs.Mark(err, errs.Unavailable)
	case status == http.StatusNotFound:
		return errs.Mark(err, errs.NotFound)
	default:
		return errs.Mark(err, errs.Invalid)
	}
}

// fullAccess is the policy that allows everything in ACR.
const fullAccess = "AliyunContainerRegistryFullAccess"

// PushHint says what somebody needs whose push to an address was refused.
func PushHint(a Address) string {
	if a.Enterprise() {
		return "the account needs cr:PullRepository and cr:PushRepository on the repository: attach the policy " + fullAccess +
			"; or log in with docker login " + a.Host()
	}
	return "the account needs the policy " + fullAccess + ", or push access to the namespace; log in with docker login " + a.Host()
}
