package acr

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"

	"slipway/internal/errs"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]Address{
		"registry.cn-hangzhou.aliyuncs.com":               {"", "cn-hangzhou", "", ".aliyuncs.com"},
		"registry-vpc.cn-hangzhou.aliyuncs.com":           {"", "cn-hangzhou", "vpc", ".aliyuncs.com"},
		"registry-internal.cn-hangzhou.aliyuncs.com":      {"", "cn-hangzhou", "internal", ".aliyuncs.com"},
		"demo-registry.cn-beijing.cr.aliyuncs.com":        {"demo", "cn-beijing", "", ".cr.aliyuncs.com"},
		"demo-registry-vpc.cn-beijing.cr.aliyuncs.com":    {"demo", "cn-beijing", "vpc", ".cr.aliyuncs.com"},
		"a-b-registry-vpc.ap-southeast-1.cr.aliyuncs.com": {"a-b", "ap-southeast-1", "vpc", ".cr.aliyuncs.com"},
		"demo-registry-vpc.cn-hangzhou.aliyuncs.com":      {"demo", "cn-hangzhou", "vpc", ".aliyuncs.com"},
	} {
		got, ok := Parse(host)
		if !ok || got != want || got.Host() != host {
			t.Errorf("Parse(%s) = %+v, %v, whose host is %s", host, got, ok, got.Host())
		}
		if public := got.Public().Host(); public != strings.NewReplacer("-vpc.", ".", "-internal.", ".").Replace(host) {
			t.Errorf("the public address of %s is %s", host, public)
		}
	}
	for _, host := range []string{
		"docker.io", "aliyuncs.com", "registry.aliyuncs.com", "oss.cn-hangzhou.aliyuncs.com", "registry.cn-hangzhou.cr.aliyuncs.com",
		"-registry.cn-hangzhou.cr.aliyuncs.com", "registry.a.b.aliyuncs.com", "registry.cn-hangzhou.aliyuncs.com.example.com", "127.0.0.1:5000",
	} {
		if a, ok := Parse(host); ok {
			t.Errorf("Parse(%s) = %+v", host, a)
		}
	}
}

// The signature of a request that Alibaba's own SDK (darabonba-openapi v2.1.13) made.
func TestSignatureOfTheSDK(t *testing.T) {
	t.Parallel()
	target, err := url.Parse("http://127.0.0.1:39991/?" + canonicalQuery(url.Values{"InstanceId": {"cri-a b/c"}}))
	if err != nil {
		t.Fatal(err)
	}
	got := authorization("POST", target, map[string]string{
		"host": "127.0.0.1:39991", "x-acs-accesskey-id": "testid", "x-acs-action": "GetAuthorizationToken",
		"x-acs-content-sha256": emptyHash, "x-acs-credentials-provider": "static_sts", "x-acs-date": "2026-11-27T07:27:48Z",
		"x-acs-security-token": "sts+/=token", "x-acs-signature-nonce": "a453196e8031339cbbc51a76e7b19310", "x-acs-version": "2018-12-01",
	}, AccessKey{"testid", "testsecret", "sts+/=token"})
	want := "ACS3-HMAC-SHA256 Credential=testid,SignedHeaders=host;x-acs-accesskey-id;x-acs-action;x-acs-content-sha256;" +
		"x-acs-credentials-provider;x-acs-date;x-acs-security-token;x-acs-signature-nonce;x-acs-version," +
		"Signature=01c4ea0e68ed061b87d79bd492518c68cf21e095e2055ad70cd438bb47e0c644"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("authorization mismatch (-want +got):\n%s", diff)
	}
}

// imitation is ACR's API as far as it is used. It answers who signs with the secret of key "id".
type imitation struct {
	now    time.Time
	answer func(action string) (status int, body string)

	mu     sync.Mutex
	calls  []string
	nonces map[string]bool
}

func (m *imitation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := r.Header
	m.calls = append(m.calls, strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.Path, " ", h.Get("X-Acs-Version"), " ", h.Get("X-Acs-Action"), " ", r.URL.RawQuery)))
	if why := m.unsigned(r); why != "" {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"Code": "SignatureDoesNotMatch", "Message": why})
		return
	}
	status, body := m.answer(h.Get("X-Acs-Action"))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// unsigned says what is wrong with a request's signature.
func (m *imitation) unsigned(r *http.Request) string {
	var credential, signed, signature string
	header := strings.TrimPrefix(r.Header.Get("Authorization"), "ACS3-HMAC-SHA256 ")
	for _, field := range strings.Split(header, ",") {
		k, v, _ := strings.Cut(field, "=")
		switch k {
		case "Credential":
			credential = v
		case "SignedHeaders":
			signed = v
		case "Signature":
			signature = v
		}
	}
	text := r.Method + "\n" + r.URL.Path + "\n" + r.URL.RawQuery + "\n"
	for _, name := range strings.Split(signed, ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		text += name + ":" + value + "\n"
	}
	text += "\n" + signed + "\n" + r.Header.Get("x-acs-content-sha256")
	sum := sha256.Sum256([]byte(text))
	mac := hmac.New(sha256.New, []byte("secret"))
	_, _ = fmt.Fprintf(mac, "ACS3-HMAC-SHA256\n%x", sum)
	date, err := time.Parse(time.RFC3339, r.Header.Get("x-acs-date"))
	nonce := r.Header.Get("x-acs-signature-nonce")
	switch {
	case credential != "id":
		return "unknown access key"
	case signature != hex.EncodeToString(mac.Sum(nil)):
		return "the signature is wrong"
	case err != nil || date.Sub(m.now).Abs() > 15*time.Minute:
		return "the date is wrong"
	case nonce == "" || m.nonces[nonce]:
		return "the nonce was used before"
	}
	m.nonces[nonce] = true
	return ""
}

const host = "demo-registry-vpc.cn-hangzhou.cr.aliyuncs.com"

type fixture struct {
	*imitation
	clock    time.Time
	keychain *Keychain
}

func newFixture(t *testing.T, secret string) *fixture {
	t.Helper()
	begin := time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC)
	f := &fixture{clock: begin, imitation: &imitation{now: begin, nonces: map[string]bool{}}}
	f.answer = func(action string) (int, string) {
		switch action {
		case "ListInstance":
			return 200, `{"Instances":[{"InstanceId":"cri-other","InstanceName":"demo2","InstanceStatus":"RUNNING"},{"InstanceId":"cri-demo","InstanceName":"demo","InstanceStatus":"RUNNING"}]}`
		default:
			return 200, fmt.Sprintf(`{"TempUsername":"cr_temp_user","AuthorizationToken":"t0ken","ExpireTime":%d,"data":{"tempUserName":"cr_temp_user","authorizationToken":"p3rsonal","expireDate":%d}}`,
				f.clock.Add(time.Hour).UnixMilli(), f.clock.Add(time.Hour).UnixMilli())
		}
	}
	server := httptest.NewServer(f.imitation)
	t.Cleanup(server.Close)
	f.keychain = NewKeychain(Options{Key: AccessKey{"id", secret, ""}, Endpoint: server.URL, Now: func() time.Time { return f.clock }})
	return f
}

type resource string

func (r resource) String() string      { return string(r) + "/a/b" }
func (r resource) RegistryStr() string { return string(r) }

func (f *fixture) login(ctx context.Context, host string) (string, error) {
	auth, err := f.keychain.ResolveContext(ctx, resource(host))
	if err != nil {
		return "", err
	}
	c, err := authn.Authorization(ctx, auth)
	if err != nil {
		return "", err
	}
	return strings.Trim(c.Username+":"+c.Password, ":"), nil
}

func TestInstance(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "secret")
	f.keychain.Instance(host, "cri-1")
	for _, after := range []time.Duration{0, 50 * time.Minute, 4 * time.Minute, 2 * time.Minute} {
		f.clock = f.clock.Add(after)
		f.now = f.clock
		if got, err := f.login(t.Context(), host); err != nil || got != "cr_temp_user:t0ken" {
			t.Fatalf("login = %q, %v", got, err)
		}
	}
	// One token for an hour, but for its last five minutes.
	call := "POST / 2018-12-01 GetAuthorizationToken InstanceId=cri-1"
	if diff := cmp.Diff([]string{call, call}, f.calls); diff != "" {
		t.Errorf("calls mismatch (-want +got):\n%s", diff)
	}
}

func TestInstanceByName(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "secret")
	if got, err := f.login(t.Context(), host); err != nil || got != "cr_temp_user:t0ken" || !f.keychain.Knows(host) {
		t.Errorf("login = %q, %v", got, err)
	}
	want := []string{"POST / 2018-12-01 ListInstance InstanceName=demo", "POST / 2018-12-01 GetAuthorizationToken InstanceId=cri-demo"}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("calls mismatch (-want +got):\n%s", diff)
	}
	if _, err := f.login(t.Context(), "absent-registry.cn-hangzhou.cr.aliyuncs.com"); !errors.Is(err, errs.Denied) || !strings.Contains(errs.HintOf(err), "instanceID") {
		t.Errorf("an instance that is not there: %v, hint %q", err, errs.HintOf(err))
	}
}

func TestPersonal(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "secret")
	if got, err := f.login(t.Context(), "registry-vpc.cn-hangzhou.aliyuncs.com"); err != nil || got != "cr_temp_user:p3rsonal" {
		t.Errorf("login = %q, %v", got, err)
	}
	if diff := cmp.Diff([]string{"GET /tokens 2016-06-07 GetAuthorizationToken"}, f.calls); diff != "" {
		t.Errorf("calls mismatch (-want +got):\n%s", diff)
	}
}

func TestOthersAreNotAskedFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "secret")
	for _, host := range []string{"docker.io", "127.0.0.1:5000", "registry.example.com"} {
		if got, err := f.login(t.Context(), host); got != "" || err != nil {
			t.Errorf("login at %s = %q, %v", host, got, err)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("calls: %v", f.calls)
	}
}

// Instances that people gave a domain of their own are known by what the configuration says.
func TestOwnDomain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "secret")
	f.keychain.Instance("images.example.com", "cri-2")
	if got, err := f.login(t.Context(), "images.example.com"); err != nil || got != "cr_temp_user:t0ken" {
		t.Errorf("login = %q, %v", got, err)
	}
	f.keychain.api.endpoint, f.keychain.passwords = "", map[string]password{}
	if _, err := f.login(t.Context(), "images.example.com"); !errors.Is(err, errs.Invalid) || !strings.Contains(errs.HintOf(err), "acrEndpoint") {
		t.Errorf("without an endpoint: %v", err)
	}
}

func TestManyAskOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "secret")
	f.keychain.Instance(host, "cri-1")
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := f.login(t.Context(), host); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(f.calls) != 1 {
		t.Errorf("%d calls", len(f.calls))
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, secret string
		status       int
		body         string
		kind         error
		want, hint   string
	}{
		{"a wrong secret", "terces", 0, "", errs.Denied, "400 SignatureDoesNotMatch: the signature is wrong", "check ALIBABA_CLOUD_ACCESS_KEY_ID"},
		{"no right", "secret", 403, `{"Code":"Forbidden.RAM","Message":"User not authorized to operate on the specified resource."}`, errs.Denied, "403 Forbidden.RAM: User not authorized", "attach the policy AliyunContainerRegistryFullAccess to the RAM user or role of the access key, or allow it cr:GetAuthorizationToken"},
		{"too many", "secret", 400, `{"Code":"Throttling.User","Message":"Request was denied due to user flow control."}`, errs.Unavailable, "Throttling.User", ""},
		{"no such instance", "secret", 404, `{"Code":"INSTANCE_NOT_EXIST","Message":"no"}`, errs.NotFound, "get a token of ACR instance cri-1: 404 INSTANCE_NOT_EXIST: no", ""},
		{"down", "secret", 502, "<html>", errs.Unavailable, "502", ""},
		{"no JSON", "secret", 200, "<html>", errs.Unavailable, "not the JSON", ""},
		{"no token", "secret", 200, "{}", nil, "the answer has no token", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, tt.secret)
			f.answer = func(string) (int, string) { return tt.status, tt.body }
			f.keychain.Instance(host, "cri-1")
			_, err := f.login(t.Context(), host)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) || !strings.Contains(errs.HintOf(err), tt.hint) {
				t.Errorf("login: %v, hint %q; want %q of kind %v, hint %q", err, errs.HintOf(err), tt.want, tt.kind, tt.hint)
			}
			if err != nil && strings.Contains(err.Error()+errs.HintOf(err), tt.secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
	f := newFixture(t, "secret")
	f.keychain.api.endpoint = "http://127.0.0.1:1"
	if _, err := f.login(t.Context(), host); !errors.Is(err, errs.Unavailable) || strings.Contains(err.Error(), "InstanceName") {
		t.Errorf("no server: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, host := range []string{"registry-vpc.cn-hangzhou.aliyuncs.com", "a-registry.b.cr.aliyuncs.com:443", ".aliyuncs.com", "-registry..cr.aliyuncs.com"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		a, ok := Parse(host)
		if !ok {
			return
		}
		if again, ok := Parse(a.Host()); !ok || again != a {
			t.Errorf("Parse(%q) = %+v, whose host %s is %+v", host, a, a.Host(), again)
		}
	})
}
