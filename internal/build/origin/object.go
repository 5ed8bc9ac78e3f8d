package origin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/minio/minio-go/v7/pkg/signer"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/errs"
)

// defaultRegion is where S3 looks for a bucket when nobody says.
const defaultRegion = "us-east-1"

// object fetches a context from an object store, as a file whose request is signed. The environment says where the store
// is and who asks, by the names that the AWS tools and kaniko read.
func (o *Opener) object(ctx context.Context, c address.Context) (Files, error) {
	region := cmp.Or(o.Getenv("AWS_REGION"), o.Getenv("AWS_DEFAULT_REGION"), defaultRegion)
	at, err := objectURL(o.Getenv, region, c.Bucket, c.Key)
	if err != nil {
		return Files{}, err
	}
	who, err := o.account()
	if err != nil {
		return Files{}, err
	}
	f, err := o.file(ctx, c, fetch.FileRequest{URL: at, Sign: func(r *http.Request) error {
		r.Header.Set("X-Amz-Content-Sha256", emptySum)
		if who.AccessKeyID != "" { // else the bucket is public, or the answer is no
			signer.SignV4(*r, who.AccessKeyID, who.SecretAccessKey, who.SessionToken, region) // writes into the header, which is r's
		}
		return nil
	}})
	return f, explain(err, who, region)
}

// emptySum is the digest of a request without a body.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// explain says what to do about what an object store refuses.
func explain(err error, who credentials.Value, region string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errs.Denied) && who.AccessKeyID == "":
		return errs.Hint(err, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
	case errors.Is(err, errs.Denied):
		return errs.Hint(err, "the access key "+who.AccessKeyID+" may not read it, or is not known there; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say another")
	case !errors.Is(err, errs.NotFound) && strings.Contains(err.Error(), "the server answers "):
		return errs.Hint(err, "set AWS_REGION to where the bucket is, which is not "+region+" perhaps, or S3_ENDPOINT to the object store's URL")
	}
	return err
}

// objectURL is where an object store has an object: its bucket in the host's name, or in the path where the name cannot
// be one or S3_FORCE_PATH_STYLE says so.
func objectURL(getenv func(string) string, region, bucket, key string) (string, error) {
	endpoint := cmp.Or(getenv("S3_ENDPOINT"), getenv("AWS_ENDPOINT_URL_S3"), getenv("AWS_ENDPOINT_URL"))
	if endpoint == "" {
		endpoint = "https://s3." + region + ".amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			endpoint += ".cn"
		}
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("S3_ENDPOINT %q: want the URL of an object store: %w", address.Redact(endpoint), errs.Invalid)
	}
	pathStyle := false
	if word := getenv("S3_FORCE_PATH_STYLE"); word != "" {
		if pathStyle, err = strconv.ParseBool(word); err != nil {
			return "", fmt.Errorf("S3_FORCE_PATH_STYLE %q: want true or false: %w", word, errs.Invalid)
		}
	}
	_, notIP := netip.ParseAddr(u.Hostname())
	if pathStyle || notIP == nil || u.Hostname() == "localhost" || strings.ContainsAny(bucket, "._") || bucket != strings.ToLower(bucket) {
		key = bucket + "/" + key
	} else {
		u.Host = bucket + "." + u.Host
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + key
	u.RawPath = s3utils.EncodePath(u.Path) // the signature is over this spelling
	return u.String(), nil
}

// account says who asks: the environment, else the files of the AWS tools, else nobody.
func (o *Opener) account() (credentials.Value, error) {
	who := credentials.Value{
		AccessKeyID: o.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: o.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: o.Getenv("AWS_SESSION_TOKEN"),
	}
	if who.AccessKeyID != "" && who.SecretAccessKey != "" {
		return who, nil
	}
	if o.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "" || o.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || o.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" {
		who, err := credentials.NewIAM("").GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
		if err != nil {
			err = fmt.Errorf("credentials of this pod: %w", errs.Mark(err, errs.Denied))
		}
		return who, err
	}
	file := o.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if file == "" {
		file = filepath.Join(o.Getenv("HOME"), ".aws", "credentials")
	}
	if _, err := os.Stat(file); err != nil {
		return credentials.Value{}, nil //nolint:nilerr // there is none: a bucket may be public
	}
	who, err := credentials.NewFileAWSCredentials(file, cmp.Or(o.Getenv("AWS_PROFILE"), "default")).GetWithContext(nil)
	if err != nil {
		err = fmt.Errorf("credentials in %s: %w", file, errs.Mark(err, errs.Denied))
	}
	return who, err
}
