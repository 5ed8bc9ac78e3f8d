package cli

import (
	"fmt"
	"strings"

	"slipway/internal/app"
	"slipway/internal/errs"
)

// parseSecret reads id=ID[,src=FILE|,env=VARIABLE], with docker's other spellings.
func parseSecret(word string) (app.Secret, error) {
	var s app.Secret
	kind := ""
	for field := range strings.SplitSeq(word, ",") {
		key, value, ok := strings.Cut(field, "=")
		switch strings.ToLower(key) {
		case "id":
			s.ID = value
		case "src", "source":
			s.File = value
		case "env":
			s.Env = value
		case "type":
			kind = value
		default:
			ok = false
		}
		if !ok {
			return s, badSecret(word)
		}
	}
	switch kind {
	case "", "file":
	case "env":
		if s.Env == "" {
			s.Env, s.File = s.File, ""
		}
	default:
		return s, badSecret(word)
	}
	if s.ID == "" || s.File != "" && s.Env != "" {
		return s, badSecret(word)
	}
	return s, nil
}

// badSecret does not repeat what was typed behind id, which may be the secret itself.
func badSecret(word string) error {
	id, _, _ := strings.Cut(word, ",")
	if !strings.HasPrefix(id, "id=") {
		id = "…"
	}
	return fmt.Errorf("--secret %s: want id=ID, id=ID,src=FILE or id=ID,env=VARIABLE: %w", id, errs.Invalid)
}

// parseSSH reads ID[=SOCKET].
func parseSSH(word string) (app.Agent, error) {
	id, socket, ok := strings.Cut(word, "=")
	if id == "" || ok && socket == "" || strings.Contains(socket, ",") {
		return app.Agent{}, fmt.Errorf("--ssh %q: want default, ID or ID=SOCKET: %w", word, errs.Invalid)
	}
	return app.Agent{ID: id, Socket: socket}, nil
}
