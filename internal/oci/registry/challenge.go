package registry

import "strings"

// challenge is what a WWW-Authenticate header asks for (RFC 9110 §11.6.1).
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenges reads all challenges of all header lines. What it cannot read it leaves out: the header is a
// stranger's, and a challenge that nobody understands is the same as none.
func parseChallenges(headers []string) []challenge {
	var list []challenge
	for _, header := range headers {
		p := challengeParser{rest: header}
		for p.next() {
			list = append(list, p.challenge())
		}
	}
	return list
}

// choose picks the challenge to answer: a token is worth more than a password on every request.
func choose(list []challenge) *challenge {
	for _, scheme := range []string{"bearer", "basic"} {
		for i := range list {
			if list[i].scheme == scheme {
				return &list[i]
			}
		}
	}
	return nil
}

type challengeParser struct{ rest string }

// next moves to where the next challenge begins.
func (p *challengeParser) next() bool {
	p.rest = strings.TrimLeft(p.rest, " \t,")
	return p.rest != ""
}

func (p *challengeParser) challenge() challenge {
	ch := challenge{scheme: strings.ToLower(p.token()), params: make(map[string]string)}
	for {
		saved := p.rest
		p.rest = strings.TrimLeft(p.rest, " \t,")
		name := p.token()
		afterName := strings.TrimLeft(p.rest, " \t")
		if name == "" || !strings.HasPrefix(afterName, "=") {
			// Not a parameter: another challenge begins here, or something that is none at all.
			p.rest = saved
			if name == "" {
				p.rest = ""
			}
			return ch
		}
		p.rest = strings.TrimLeft(afterName[1:], " \t")
		ch.params[strings.ToLower(name)] = p.value()
	}
}

func (p *challengeParser) token() string {
	i := strings.IndexAny(p.rest, " \t,=\"")
	if i < 0 {
		i = len(p.rest)
	}
	token := p.rest[:i]
	p.rest = p.rest[i:]
	return token
}

// value reads a token or a quoted string.
func (p *challengeParser) value() string {
	if !strings.HasPrefix(p.rest, `"`) {
		i := strings.IndexAny(p.rest, " \t,")
		if i < 0 {
			i = len(p.rest)
		}
		value := p.rest[:i]
		p.rest = p.rest[i:]
		return value
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return b.String()
}
