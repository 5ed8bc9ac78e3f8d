package cli

import (
	"github.com/spf13/pflag"

	"slipway/internal/app"
)

// defaultRetries are those of the registry client (registry.Retry).
const defaultRetries = 4

// pushFlags adds the flags that say how to push.
func (f *buildFlags) pushFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.SkipPushCheck, "skip-push-check", false, "do not ask, while the build begins, whether the push will be allowed")
	flags.IntVar(&f.retries, "push-retry", defaultRetries, "make a request to a registry that failed for a passing reason `N` more times, after 0.2 s to 10 s each")
}

func (f *buildFlags) retry(o *app.Options) { o.Tries = f.retries + 1 }
