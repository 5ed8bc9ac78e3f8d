package serverless

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"slipway/internal/errs"
	"slipway/internal/pipeline/expr"
	"slipway/internal/s3"
)

// cachePlugin brings folders back that an earlier run saved under a key, and saves them when the steps are over.
func cachePlugin() *plugin {
	return &plugin{
		name:   scope + "cache",
		inputs: []string{"key", "path", "folder", "endpoint", "bucket", "prefix", "region", "ossConfig", "credentials"}, required: []string{"key", "path"},
		secret: []string{"credentials"}, room: true, run: restore, post: save,
	}
}

// hitOutput is the output that says whether there was anything to bring back.
const hitOutput = "cache-hit"

// store keeps archives by name.
type store interface {
	// open reads an archive; errs.NotFound says that there is none.
	open(ctx context.Context, name string) (io.ReadCloser, error)
	// put keeps a file as an archive, in place of an older one.
	put(ctx context.Context, name, file string) error
	String() string
}

// restore unpacks in the room, where a link in an archive can do no harm. A cache that cannot be used only costs time: the
// step does not fail of it.
func restore(ctx context.Context, c *call) (map[string]any, error) {
	s, err := c.store()
	if err != nil {
		return nil, err
	}
	hit, err := c.unpack(ctx, s)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && errors.Is(err, errs.Limit):
		return nil, err
	case err != nil:
		c.log.printf("cache %s of %s cannot be used: %s", c.text("key"), s, err)
	case hit:
		c.log.printf("cache %s found in %s", c.text("key"), s)
	default:
		c.log.printf("cache %s is not in %s", c.text("key"), s)
	}
	return map[string]any{hitOutput: hit}, nil
}

func (c *call) unpack(ctx context.Context, s store) (hit bool, err error) {
	archive, err := s.open(ctx, archiveName(c.text("key")))
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	plain, err := zstd.NewReader(archive, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return false, err
	}
	defer plain.Close()
	code, err := c.exec(ctx, c.log, Process{Args: []string{"tar", "-C", "/", "-xf", "-"}, Env: pairs(c.env), Dir: Workspace, Stdin: plain})
	if err := exit(code, err); err != nil {
		return false, fmt.Errorf("unpack: %w", err)
	}
	return true, nil
}

// save packs what the paths hold now. After a failure that is no good to anybody.
func save(ctx context.Context, c *call) (err error) {
	switch {
	case c.status != "success":
		c.log.printf("the cache %s is not saved: the task did not succeed", c.text("key"))
		return nil
	case c.outputs == nil:
		return nil
	}
	s, err := c.store()
	if err != nil {
		return err
	}
	file := filepath.Join(c.job.Dir, fmt.Sprintf("cache-%d", c.log.step.Number))
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	packed, err := c.pack(ctx, file)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && errors.Is(err, errs.Limit):
		return err
	case err == nil && !packed:
		c.log.printf("nothing to save: %s is not there", strings.Join(c.texts("path"), ", "))
		return nil
	case err == nil:
		err = s.put(ctx, archiveName(c.text("key")), file)
	}
	if err != nil {
		c.log.printf("the cache %s is not saved in %s: %s", c.text("key"), s, err)
		return nil
	}
	c.log.printf("saved the cache %s in %s", c.text("key"), s)
	return nil
}

// pack writes an archive of the paths that are there to a file, and tells whether there are any.
func (c *call) pack(ctx context.Context, file string) (packed bool, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return false, err
	}
	script := `cd / && for p; do shift; [ ! -e "$p" ] || set -- "$@" "$p"; done; [ $# -gt 0 ] || exit 77; exec tar -cf - "$@"`
	args := []string{"sh", "-c", script, "tar"}
	for _, p := range c.texts("path") {
		for line := range strings.Lines(p) {
			if line = strings.TrimSpace(line); line != "" {
				args = append(args, "./"+strings.TrimPrefix(home(line), "/"))
			}
		}
	}
	code, err := c.exec(ctx, c.log, Process{Args: args, Env: pairs(c.env), Dir: Workspace, Stdout: z})
	if err = errors.Join(err, z.Close()); err != nil {
		return false, err
	}
	if code == nothingThere {
		return false, nil
	}
	if err := exit(code, nil); err != nil {
		return false, fmt.Errorf("pack: %w", err)
	}
	return true, nil
}

// nothingThere is the exit code of a script that found none of the paths.
const nothingThere = 77

// home is a path as the room has it, ~ being the home of root.
func home(p string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		return path.Join("/root", p[1:])
	}
	return inside(p)
}

// archiveName is a file's name for a key: readable as far as it can be, and different for different keys.
func archiveName(key string) string {
	sum := sha256.Sum256([]byte(key))
	readable := strings.Map(func(r rune) rune {
		if r < 128 && (r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
			return r
		}
		return '_'
	}, key)
	return strings.TrimLeft(readable[:min(len(readable), 80)], ".") + "-" + hex.EncodeToString(sum[:8]) + ".tar.zst"
}

// store is where the step's archives are: a bucket, a folder of a mount, or slipway's own folder.
func (c *call) store() (store, error) {
	oss, _ := c.inputs["ossConfig"].(map[string]any)
	bucket := first(c.text("bucket"), expr.Text(oss["bucket"]), c.data("cacheConfig", "oss", "bucketName"))
	if bucket != "" {
		return c.bucket(bucket, expr.Text(oss["internal"]) == "true")
	}
	if folder := c.text("folder"); folder != "" {
		mount, below, ok := c.job.Environment.Inside(inside(folder))
		if !ok {
			err := fmt.Errorf("the folder %s is in no NAS mount: what is saved there would be gone with the task", folder)
			return nil, errs.Hint(errs.Mark(err, errs.Invalid), "add a nasConfig.mountPoints to the runnerConfig, or leave folder out")
		}
		return folderStore{dir: mount.Folder, below: below, name: folder}, nil
	}
	// Repositories do not see each other's: whoever may write a cache decides what others run.
	sum := sha256.Sum256([]byte(c.opts.Git["cloneUrl"]))
	return folderStore{dir: c.opts.Cache, below: hex.EncodeToString(sum[:8]), name: "this machine"}, nil
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

func (c *call) bucket(bucket string, internal bool) (store, error) {
	region := first(c.text("region"), c.data("cacheConfig", "oss", "regionId"))
	a := c.account()
	store := bucketStore{
		bucket: s3.Bucket{
			Endpoint: c.text("endpoint"), Name: bucket, Region: region, KeyID: a.AccessKeyID, Secret: a.AccessKeySecret, Token: a.SecurityToken,
			HTTP: c.opts.HTTP, Now: c.opts.Now, Pause: time.Second,
		},
		prefix: first(c.text("prefix"), c.data("cacheConfig", "oss", "prefix"), "cache-home"),
	}
	if store.bucket.Endpoint == "" {
		if region == "" {
			return nil, errs.Mark(errors.New("the bucket "+bucket+" needs an endpoint, or the region of an OSS bucket"), errs.Invalid)
		}
		region = strings.TrimPrefix(region, "oss-")
		store.bucket.Region, store.bucket.Endpoint = region, "https://s3.oss-"+region
		if internal {
			store.bucket.Endpoint += "-internal"
		}
		store.bucket.Endpoint += ".aliyuncs.com"
	}
	if !strings.Contains(store.bucket.Endpoint, "://") {
		store.bucket.Endpoint = "https://" + store.bucket.Endpoint
	}
	// Clouds take the bucket's name in front of the server's and nowhere else; servers of one's own have no such names.
	store.bucket.HostStyle = strings.HasSuffix(store.bucket.Endpoint, ".aliyuncs.com") || strings.HasSuffix(store.bucket.Endpoint, ".amazonaws.com")
	return store, nil
}

// folderStore is a folder of this machine. Steps may write to it, when it is a mount: no link leads out of it.
type folderStore struct{ dir, below, name string }

func (s folderStore) String() string { return s.name }

func (s folderStore) open(_ context.Context, name string) (io.ReadCloser, error) {
	f, err := regularFile(s.dir, path.Join(s.below, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errs.NotFound
	}
	return f, err
}

func (s folderStore) put(_ context.Context, name, file string) (err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if s.below != "" {
		if err := root.MkdirAll(s.below, 0o755); err != nil {
			return err
		}
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	name = path.Join(s.below, name)
	draft := name + "." + filepath.Base(filepath.Dir(file)) // the task's own folder: nobody else has it
	out, err := root.OpenFile(draft, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = root.Rename(draft, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(draft))
	}
	return nil
}

// bucketStore is a part of a bucket of OSS, S3 or what speaks like it.
type bucketStore struct {
	bucket s3.Bucket
	prefix string
}

func (s bucketStore) String() string { return "the bucket " + s.bucket.Name }

func (s bucketStore) open(ctx context.Context, name string) (io.ReadCloser, error) {
	return s.bucket.Get(ctx, path.Join(s.prefix, name))
}

func (s bucketStore) put(ctx context.Context, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.bucket.Put(ctx, path.Join(s.prefix, name), f)
}
