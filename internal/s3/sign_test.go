package s3

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The examples of AWS's documentation, "Signature Calculations for the Authorization Header".
func TestSign(t *testing.T) {
	t.Parallel()
	b := &Bucket{
		Endpoint: "https://s3.amazonaws.com", Name: "examplebucket", HostStyle: true, Region: "us-east-1",
		KeyID: "AKIAIOSFODNN7EXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		Now: func() time.Time { return time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC) },
	}
	sum := sha256.Sum256([]byte("Welcome to Amazon S3."))
	for _, tt := range []struct {
		method, name, sum string
		headers           map[string]string
		want              string
	}{
		{http.MethodGet, "test.txt", emptySum, map[string]string{"Range": "bytes=0-9"}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{
			http.MethodPut, "test$file.text", hex.EncodeToString(sum[:]),
			map[string]string{"Date": "Fri, 24 May 2013 00:00:00 GMT", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY"},
			"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
		},
	} {
		r, err := b.request(t.Context(), tt.method, tt.name, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Del("Authorization")
		for name, value := range tt.headers {
			r.Header.Set(name, value)
		}
		b.sign(r, tt.sum)
		if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, ",Signature="+tt.want) {
			t.Errorf("%s %s: %s, want %s", tt.method, tt.name, got, tt.want)
		}
	}
}
