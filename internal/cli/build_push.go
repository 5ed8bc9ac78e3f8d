package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"slipway/internal/app"
	"slipway/internal/errs"
)

// defaultRetries are those of the registry client (registry.Retry).
const defaultRetries = 4

// pushFlags adds the flags that say how to push.
func (f *buildFlags) pushFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.SkipPushCheck, "skip-push-check", false, "do not ask, while the build begins, whether the push will be allowed")
	flags.StringVar(&f.key, "sign-key", "", "sign what is pushed with the private key in `FILE`, or in the variable that env://NAME names (see 'slipway sign')")
	flags.IntVar(&f.retries, "push-retry", defaultRetries, "make a request to a registry that failed for a passing reason `N` more times, after 0.2 s to 10 s each")
}

func (f *buildFlags) retry(o *app.Options) { o.Tries = f.retries + 1 }

// parsePush turns words into values.
func (f *buildFlags) parsePush(e env) error {
	if f.retries < 0 {
		return fmt.Errorf("--push-retry %d: cannot be negative: %w", f.retries, errs.Invalid)
	}
	if f.key == "" {
		return nil
	}
	s, err := e.signer(f.key)
	f.Key = &s
	return err
}
