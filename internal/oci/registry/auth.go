package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"slipway/internal/errs"
)

// login is what the keychain has for a repository; the zero login is nobody's.
type login = authn.AuthConfig

// token is a bearer token for one scope.
type token struct {
	value   string
	expires time.Time
}

const (
	// minTokenLife is what a token without expires_in lives (the token specification's default), and expiryMargin is
	// how long before its end a token is not used any more.
	minTokenLife = 60 * time.Second
	expiryMargin = 5 * time.Second
	maxTokenBody = 1 << 20
)

// target is the repository, as the keychain wants to see it.
type target struct{ registry, repository string }

func (t target) String() string      { return t.registry + "/" + t.repository }
func (t target) RegistryStr() string { return t.registry }

// authorization returns the Authorization header for a scope as far as the host has taught how to make one; "" when it
// has not, or there are no credentials.
func (c *Client) authorization(ctx context.Context, e endpoint, s scope) (string, error) {
	ch := e.lastChallenge()
	if ch == nil {
		return "", nil
	}
	if ch.scheme == "bearer" {
		return c.bearer(ctx, e, ch, s)
	}
	l, err := c.login(ctx, e)
	if err != nil {
		return "", err
	}
	return basic(l), nil
}

func basic(l login) string {
	switch {
	case l.Auth != "":
		return "Basic " + l.Auth
	case l.Username != "" || l.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.Username+":"+l.Password))
	}
	return ""
}

func (h *host) lastChallenge() *challenge {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.challenge
}

// learn takes in a challenge, and that what was sent for the scope, if anything, is good no longer.
func (h *host) learn(ch *challenge, s scope) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.challenge = ch
	delete(h.tokens, s.key())
	delete(h.logins, s.repository)
}

func (s scope) key() string { return strings.Join(s.strings(), " ") }

// login asks the keychain once per repository; a credential helper is a program to start.
func (c *Client) login(ctx context.Context, e endpoint) (login, error) {
	e.mu.Lock()
	l, ok := e.logins[e.repository]
	e.mu.Unlock()
	if ok {
		return l, nil
	}
	auth, err := authn.Resolve(ctx, c.opts.Keychain, target{e.credentials, e.repository})
	if err != nil {
		return login{}, fmt.Errorf("find credentials for %s: %w", e.credentials, err)
	}
	found, err := authn.Authorization(ctx, auth)
	if err != nil {
		return login{}, fmt.Errorf("get credentials for %s: %w", e.credentials, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.logins[e.repository] = *found
	return *found, nil
}

// secrets returns what must not show in a message of the host's.
func (h *host) secrets() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []string
	for _, l := range h.logins {
		list = append(list, l.Password, l.Auth, l.IdentityToken, l.RegistryToken)
	}
	for _, t := range h.tokens {
		list = append(list, t.value)
	}
	return list
}

// bearer returns a token for the scope: the one at hand, or a new one from the realm that the challenge names.
func (c *Client) bearer(ctx context.Context, e endpoint, ch *challenge, s scope) (string, error) {
	if t, ok := e.token(s); ok {
		return "Bearer " + t, nil
	}
	select {
	case e.tokenTurn <- struct{}{}:
		defer func() { <-e.tokenTurn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if t, ok := e.token(s); ok {
		return "Bearer " + t, nil
	}
	l, err := c.login(ctx, e)
	if err != nil {
		return "", err
	}
	if l.RegistryToken != "" {
		return "Bearer " + l.RegistryToken, nil
	}
	t, err := c.fetchToken(ctx, e, ch, s, l)
	if err != nil {
		return "", fmt.Errorf("get token for %s: %w", e.name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens[s.key()] = t
	return "Bearer " + t.value, nil
}

// token finds a token that covers the scope and will live a little longer.
func (h *host) token(s scope) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wider := s
	wider.push = true
	for _, key := range []string{s.key(), wider.key()} {
		if t, ok := h.tokens[key]; ok && time.Until(t.expires) > expiryMargin {
			return t.value, true
		}
	}
	return "", false
}

// fetchToken asks the realm for a token: by OAuth 2 with an identity token, else with name and password or as nobody.
func (c *Client) fetchToken(ctx context.Context, e endpoint, ch *challenge, s scope, l login) (token, error) {
	realm, err := url.Parse(ch.params["realm"])
	if err != nil || realm.Host == "" {
		return token{}, fmt.Errorf("challenge has no valid realm")
	}
	if err := checkRealm(realm, e); err != nil {
		return token{}, err
	}
	req, err := tokenRequest(ctx, realm, ch.params["service"], s.strings(), l)
	if err != nil {
		return token{}, err
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	client := *e.client
	followRedirect := client.CheckRedirect
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if err := checkRealm(req.URL, e); err != nil {
			return final{err}
		}
		return followRedirect(req, via)
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return token{}, networkError(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, newStatusError(resp, l.Password, l.Auth, l.IdentityToken)
	}
	defer resp.Body.Close()
	return readToken(resp.Body, start)
}

func tokenRequest(ctx context.Context, realm *url.URL, service string, scopes []string, l login) (*http.Request, error) {
	if l.IdentityToken != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {l.IdentityToken}, "client_id": {"slipway"},
			"service": {service}, "scope": {strings.Join(scopes, " ")},
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err != nil {
			return nil, errors.New("challenge has no valid realm")
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
	u := *realm
	query := u.Query()
	query["scope"] = slices.Concat(query["scope"], scopes)
	if service != "" {
		query.Set("service", service)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("challenge has no valid realm")
	}
	if header := basic(l); header != "" {
		req.Header.Set("Authorization", header)
	}
	return req, nil
}

func readToken(body io.Reader, asked time.Time) (token, error) {
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxTokenBody)).Decode(&answer); err != nil {
		// The decoder's error may quote the answer.
		return token{}, errors.New("token server's answer is not the JSON it should be")
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if value == "" {
		return token{}, errors.New("token server's answer has no token")
	}
	life := max(minTokenLife, time.Duration(min(answer.ExpiresIn, 1e6))*time.Second)
	return token{value: value, expires: asked.Add(life)}, nil
}

// checkRealm decides whether credentials may go to where a challenge points. The registry names that place, so a hostile
// one could have passwords sent in the clear, or have us call services of this machine or network that it cannot reach:
// an address that is not public is believed only from a registry that is on such an address itself.
func checkRealm(realm *url.URL, e endpoint) error {
	if realm.Scheme != "https" && (realm.Scheme != "http" || !slices.Contains(e.schemesToTry(), "http")) {
		return errs.Mark(fmt.Errorf("registry sends credentials to %s over %s", realm.Host, realm.Scheme), errs.Denied)
	}
	host := hostname(realm.Host)
	switch {
	case strings.EqualFold(realm.Host, e.name), isLoopback(e.name), !isInternal(host):
		return nil
	case isPrivate(host) && isPrivate(hostname(e.name)):
		return nil
	}
	return errs.Mark(fmt.Errorf("registry sends credentials to %s, an address that is not public", realm.Host), errs.Denied)
}

// isInternal says whether a host is an address that only this machine or its network can reach.
func isInternal(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return isLoopback(host)
	}
	addr = addr.Unmap()
	return isPrivate(host) || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified()
}

func isPrivate(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsPrivate()
}
