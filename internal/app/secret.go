package app

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"slipway/internal/errs"
)

// Secret is a value that RUN --mount=type=secret,id=ID shows to a process and that nothing else ever holds.
type Secret struct {
	ID string
	// File holds the value.
	File string
	// Value is the value itself, when it is not nil.
	Value []byte
	// Env is a variable of the environment that holds it, when File is "". Default: the variable called ID when it is
	// set, else the file called ID.
	Env string
}

// Agent is the socket of an SSH agent that RUN --mount=type=ssh,id=ID may ask for signatures.
type Agent struct {
	ID string
	// Socket is its path. Default: that of the user's own agent, which SSH_AUTH_SOCK names.
	Socket string
}

// maxSecret is BuildKit's limit, too.
const maxSecret = 500 << 10

// secrets reads the values once, before anything runs.
func (a *App) secrets(list []Secret) (map[string][]byte, error) {
	values := map[string][]byte{}
	for _, s := range list {
		if s.Value == nil && s.File == "" && s.Env == "" {
			if a.opts.Getenv(s.ID) != "" {
				s.Env = s.ID
			} else {
				s.File = s.ID
			}
		}
		value, err := s.value(a.opts.Getenv)
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", s.ID, err)
		}
		values[s.ID] = value
	}
	return values, nil
}

func (s Secret) value(getenv func(string) string) ([]byte, error) {
	if s.Value != nil {
		return s.Value, nil
	}
	if s.File == "" {
		return []byte(getenv(s.Env)), nil
	}
	f, err := os.Open(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.Mark(err, errs.Invalid)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	value, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(value) > maxSecret {
		err = fmt.Errorf("%s has more than %d bytes: %w", s.File, maxSecret, errs.Invalid)
	}
	return value, err
}

// agents are the sockets by id.
func (a *App) agents(list []Agent) (map[string]string, error) {
	sockets := map[string]string{}
	for _, s := range list {
		socket := s.Socket
		if socket == "" {
			socket = a.opts.Getenv("SSH_AUTH_SOCK")
		}
		if socket == "" {
			return nil, errs.Hint(fmt.Errorf("SSH agent %q: SSH_AUTH_SOCK is not set: %w", s.ID, errs.Invalid), "start ssh-agent, or name a socket with --ssh "+s.ID+"=SOCKET")
		}
		info, err := os.Stat(socket)
		if err != nil {
			return nil, fmt.Errorf("SSH agent %q: %w", s.ID, errs.Mark(err, errs.Invalid))
		}
		if info.Mode().Type() != fs.ModeSocket {
			return nil, errs.Hint(fmt.Errorf("SSH agent %q: %s is not a socket: %w", s.ID, socket, errs.Invalid), "add a key to an agent with ssh-add, and name the agent's socket")
		}
		sockets[s.ID] = socket
	}
	return sockets, nil
}
