package solver

import (
	"strings"
)

// shortestHidden is how long a secret, or a line of one, must be to be blanked in logs. What is shorter would blank
// half of what a process prints and can be guessed anyway.
const shortestHidden = 4

// hiding returns a function that blanks secrets in a line of output. A process that prints a secret does so by mistake,
// and logs are kept, copied and shown to others.
func hiding(secrets map[string][]byte) func(string) string {
	var pairs []string
	for _, data := range secrets {
		for line := range strings.SplitSeq(string(data), "\n") {
			if line = strings.TrimSpace(line); len(line) >= shortestHidden {
				pairs = append(pairs, line, "****")
			}
		}
	}
	if len(pairs) == 0 {
		return func(line string) string { return line }
	}
	return strings.NewReplacer(pairs...).Replace
}
