package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// mounts are a RUN's, with what BuildKit takes for granted filled in.
func (s *stage) mounts(c command, cmd *instructions.RunCommand) ([]Mount, error) {
	var list []Mount
	agents := 0
	for i, m := range instructions.GetMounts(cmd) {
		from := Source{Kind: FromContext}
		if src := c.from[i]; src != nil {
			if !src.planned() {
				return nil, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
			}
			from = src.resolved()
		}
		var mount Mount
		var err error
		switch m.Type {
		case instructions.MountTypeSecret:
			mount, err = secretMount(m)
		case instructions.MountTypeSSH:
			mount, err = sshMount(m, agents)
			agents++
		default:
			mount, err = s.fileMount(m, from)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, mount)
	}
	return list, nil
}

// fileMount is a bind, a cache or a tmpfs.
func (s *stage) fileMount(m *instructions.Mount, from Source) (Mount, error) {
	mount := Mount{Type: string(m.Type), Target: m.Target, From: from, Path: path.Join("/", m.Source), ReadOnly: m.ReadOnly, Size: m.SizeLimit}
	if !path.IsAbs(path.Clean(m.Target)) {
		mount.Target = path.Join("/", s.dir, m.Target)
	}
	mount.Target = path.Clean(mount.Target)
	if mount.Target == "/" {
		return Mount{}, fmt.Errorf("invalid mount target %q", mount.Target)
	}
	switch mount.Type {
	case MountTmpfs:
		mount.From, mount.Path = Source{Kind: FromScratch}, "/"
	case MountCache:
		if m.From == "" {
			mount.From = Source{Kind: FromScratch}
		}
		mount.ID, mount.Sharing = m.CacheID, string(m.CacheSharing)
		if mount.ID == "" {
			mount.ID = path.Clean(m.Target)
		}
		if mount.Sharing == "" {
			mount.Sharing = string(instructions.MountSharingShared)
		}
		mount.own(m, 0o755)
	}
	return mount, nil
}

// own takes over mode and owner, or their defaults.
func (m *Mount) own(from *instructions.Mount, mode fs.FileMode) {
	m.Mode = mode
	if from.Mode != nil {
		m.Mode = fs.FileMode(*from.Mode & 0o7777)
	}
	if from.UID != nil {
		m.UID = int(*from.UID & 0xffffffff)
	}
	if from.GID != nil {
		m.GID = int(*from.GID & 0xffffffff)
	}
}

// secretMount is a secret's: a file in /run/secrets unless it says otherwise, or unless it is a variable.
func secretMount(m *instructions.Mount) (Mount, error) {
	mount := Mount{Type: MountSecret, Target: m.Target, From: Source{Kind: FromScratch}, ReadOnly: true, ID: m.CacheID, Required: m.Required}
	if m.Source != "" {
		mount.ID = m.Source
	}
	if mount.ID == "" {
		if m.Target == "" {
			return Mount{}, errors.New("one of source, target required")
		}
		mount.ID = path.Base(m.Target)
	}
	if m.Env != nil {
		mount.Env = *m.Env
	} else if mount.Target == "" {
		mount.Target = "/run/secrets/" + path.Base(mount.ID)
	}
	if mount.Target != "" {
		mount.Target = path.Join("/", mount.Target)
	}
	mount.own(m, 0o400)
	return mount, nil
}

// sshMount is an SSH agent's socket, the nth of the RUN.
func sshMount(m *instructions.Mount, nth int) (Mount, error) {
	if m.Source != "" {
		return Mount{}, errors.New("ssh does not support source")
	}
	mount := Mount{Type: MountSSH, Target: m.Target, From: Source{Kind: FromScratch}, ID: m.CacheID, Required: m.Required}
	if mount.ID == "" {
		mount.ID = "default"
	}
	if mount.Target == "" {
		mount.Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", nth)
	}
	mount.Target = path.Join("/", mount.Target)
	mount.own(m, 0o600)
	return mount, nil
}

// runEnv is the environment of a RUN: it knows where the first SSH agent is.
func (s *stage) runEnv(mounts []Mount) *env {
	if _, ok := s.env.Get("SSH_AUTH_SOCK"); ok {
		return s.env
	}
	for _, m := range mounts {
		if m.Type == MountSSH {
			e := s.env.clone()
			e.set("SSH_AUTH_SOCK", m.Target)
			return e
		}
	}
	return s.env
}
