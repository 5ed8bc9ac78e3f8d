package solver

import (
	"errors"
	"io"
	"strings"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// etc is an image that has these files alone, by path.
type etc map[string]string

func (e etc) Stat(path string) (layer.Entry, error) {
	if _, ok := e[path]; !ok {
		return layer.Entry{}, errs.NotFound
	}
	return layer.Entry{Path: path}, nil
}

func (e etc) Open(path string) (io.ReadCloser, error) {
	text, ok := e[path]
	if !ok {
		return nil, errs.NotFound
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (e etc) Resolve(path string) (string, error) { return path, nil }

// Whatever an image's passwd and group say, USER means somebody or nobody: a number is itself, and root never comes
// from a name that is not there.
func FuzzFindAccount(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\nme:x:7:8::/home:\n", "root:x:0:\nus:x:9:me,you\n", "me")
	f.Add("me:x:-1:99999999999:::\nme:::::\n", "us\n:::\nus:x:x:me\n", "me:us")
	f.Add("", "", "7")
	f.Add("\x00", strings.Repeat("a:", 70_000), "a")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		a, err := findAccount(etc{"etc/passwd": passwd, "etc/group": group}, spec)
		if err != nil {
			return
		}
		user, _, _ := strings.Cut(spec, ":")
		if id, err := parseID(user); err == nil && a.uid != id && !strings.Contains(passwd, user+":") {
			t.Errorf("USER %q is %+v", spec, a)
		}
		if a.uid == 0 && user != "" && user != "root" && strings.Trim(user, "0") != "" && !strings.Contains(passwd, user+":") {
			t.Errorf("USER %q is root, and %q does not say so", spec, passwd)
		}
		if _, err := findAccount(etc{}, user); user != "" && err == nil != parseable(user) {
			t.Errorf("USER %q without any files: %v", user, err)
		} else if err != nil && !errors.Is(err, errs.NotFound) {
			t.Errorf("USER %q without any files: %v is not an errs.NotFound", user, err)
		}
	})
}

func parseable(user string) bool {
	_, err := parseID(user)
	return err == nil || user == "root"
}
