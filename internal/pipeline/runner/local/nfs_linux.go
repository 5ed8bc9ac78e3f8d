package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

// This file mounts NFS shares. A mount is of the machine, not of this process: it is there after a crash, and removing
// a folder that it is in would remove what is on the server. So shares are mounted in a folder of their own, which
// nothing here ever removes with its content, once for all attempts and processes that want them; the last one unmounts.

// defaultNFS are the options that Alibaba Cloud advises for its NAS, which speaks version 3 best.
const defaultNFS = "vers=3,nolock,proto=tcp,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"

// isNFS tells the word that asks for a mount, "nfs" or "nfs:OPTIONS", from a folder.
func isNFS(word string) (options string, ok bool) {
	if word == "nfs" {
		return defaultNFS, true
	}
	return strings.CutPrefix(word, "nfs:")
}

// mount mounts the shares of an environment whose NAS map says so, and puts their folders into it.
func (r *Runner) mount(ctx context.Context, env *pipeline.Environment) (unmount func() error, err error) {
	var shares []*share
	unmount = func() error {
		var failed error
		for _, s := range shares {
			failed = errors.Join(failed, s.release())
		}
		return failed
	}
	for i := range env.Mounts {
		m := &env.Mounts[i]
		options, ok := isNFS(m.Folder)
		if !ok {
			continue
		}
		if m.TLS {
			options += ",xprtsec=tls"
		}
		s, err := mountShare(ctx, r.opts.MountDir, m.Server, options, mountNFS)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: mount %s: %w", m.Origin, m.Server, err), unmount())
		}
		shares = append(shares, s)
		m.Folder = s.dir
	}
	return unmount, nil
}

// share is a share that is mounted, and stays so until everybody has released it.
type share struct {
	dir string
	use *os.File // locked by everybody who uses it
}

// mounter mounts a share at a folder.
type mounter func(ctx context.Context, server, dir, options string) error

// mountShare mounts a share below dir unless it is mounted there already.
func mountShare(ctx context.Context, dir, server, options string, do mounter) (_ *share, err error) {
	sum := sha256.Sum256([]byte(server + " " + options))
	s := &share{dir: filepath.Join(dir, hex.EncodeToString(sum[:8]))}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	gate, err := locked(s.dir+".gate", unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gate.Close()) }()
	mounted, err := isMountPoint(s.dir)
	if err == nil && !mounted {
		err = do(ctx, server, s.dir, options)
	}
	if err != nil {
		return nil, err
	}
	s.use, err = locked(s.dir+".use", unix.LOCK_SH)
	return s, err
}

// locked opens and locks a file, until it is closed.
func locked(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

// release unmounts the share when nobody else uses it.
func (s *share) release() (err error) {
	gate, err := locked(s.dir+".gate", unix.LOCK_EX)
	defer func() { err = errors.Join(err, s.use.Close()) }()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gate.Close()) }()
	err = unix.Flock(int(s.use.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err == nil {
		err = unix.Unmount(s.dir, 0)
	}
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) { // the next one to use it unmounts it; or somebody has
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	return nil
}

// isMountPoint says whether something is mounted at a folder.
func isMountPoint(dir string) (bool, error) {
	var at, above unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &at), unix.Stat(filepath.Dir(dir), &above)); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	return at.Dev != above.Dev, nil
}

// mountNFS mounts by the helper of NFS when it is installed, which knows what the kernel leaves to it, else by the
// kernel alone.
func mountNFS(ctx context.Context, server, dir, options string) error {
	if _, err := exec.LookPath("mount.nfs"); err == nil {
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, "mount", "-t", "nfs", "-o", options, server, dir)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errs.Mark(fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(said.String()), " ")), errs.Unavailable)
		}
		return nil
	}
	host, _, _ := strings.Cut(server, ":")
	addresses, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return errs.Mark(err, errs.Unavailable)
	}
	address := addresses[0].IP.String()
	switch err := unix.Mount(server, dir, "nfs", 0, options+",addr="+address+",mountaddr="+address); {
	case errors.Is(err, unix.EPERM):
		return errs.Hint(errs.Mark(err, errs.Denied), "mounting takes root; or mount it yourself, and map the share to the folder")
	case errors.Is(err, unix.ENODEV):
		return errs.Hint(errs.Mark(errors.New("this kernel has no NFS"), errs.Invalid), "load its module with modprobe nfs, or map the share to a folder of this machine")
	case err != nil:
		return errs.Hint(errs.Mark(err, errs.Unavailable), "the package nfs-common has a helper that may know more")
	}
	return nil
}
