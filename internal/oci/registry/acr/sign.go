package acr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// emptyHash is the SHA-256 of nothing: no call has a body.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// sign adds the headers of Alibaba Cloud's signature ACS3-HMAC-SHA256.
func sign(req *http.Request, r request, key AccessKey, now time.Time, nonce string) {
	headers := map[string]string{
		"host":                  req.URL.Host,
		"x-acs-action":          r.action,
		"x-acs-content-sha256":  emptyHash,
		"x-acs-date":            now.UTC().Format(time.RFC3339),
		"x-acs-signature-nonce": nonce,
		"x-acs-version":         r.version,
	}
	if key.Token != "" {
		headers["x-acs-security-token"] = key.Token
		headers["x-acs-accesskey-id"] = key.ID
	}
	for name, value := range headers {
		if name != "host" {
			req.Header.Set(name, value)
		}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", authorization(req.Method, req.URL, headers, key))
}

// authorization is the header that vouches for a request with the given headers.
func authorization(method string, target *url.URL, headers map[string]string, key AccessKey) string {
	names := slices.Sorted(maps.Keys(headers))
	var canonical strings.Builder
	canonical.WriteString(method + "\n" + target.EscapedPath() + "\n" + target.RawQuery + "\n")
	for _, name := range names {
		canonical.WriteString(name + ":" + strings.TrimSpace(headers[name]) + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + headers["x-acs-content-sha256"])
	sum := sha256.Sum256([]byte(canonical.String()))
	mac := hmac.New(sha256.New, []byte(key.Secret))
	mac.Write([]byte("ACS3-HMAC-SHA256\n" + hex.EncodeToString(sum[:])))
	return "ACS3-HMAC-SHA256 Credential=" + key.ID + ",SignedHeaders=" + signed + ",Signature=" + hex.EncodeToString(mac.Sum(nil))
}

// canonicalQuery is a query in the one form that is signed: sorted, a space as %20.
func canonicalQuery(q url.Values) string { return strings.ReplaceAll(q.Encode(), "+", "%20") }
