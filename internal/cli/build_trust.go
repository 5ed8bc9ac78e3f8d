package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"slipway/internal/errs"
)

// trustFlags adds the flags that state something of the image. A word alone, as --sbom, is the first choice.
func (f *buildFlags) trustFlags(flags *pflag.FlagSet) {
	flags.StringVar(&f.provenance, "provenance", "", "attach how the image was made, `min|max`; max adds arguments, labels and the Dockerfile")
	flags.StringVar(&f.sbom, "sbom", "", "attach a list of the image's packages, `spdx|cyclonedx`")
	flags.BoolVar(&f.Attest.Listed, "attest-inline", false, "list --provenance and --sbom in an index around the image, as BuildKit does, instead of beside it")
	flags.Lookup("provenance").NoOptDefVal = "min"
	flags.Lookup("sbom").NoOptDefVal = "spdx"
}

// parseTrust turns words into values. As with buildx, true is the first choice and false is nothing.
func (f *buildFlags) parseTrust() (err error) {
	if f.Attest.Provenance, err = attestation("--provenance", f.provenance, "min", "max"); err != nil {
		return err
	}
	if f.Attest.SBOM, err = attestation("--sbom", f.sbom, "spdx", "cyclonedx"); err != nil {
		return err
	}
	f.Attest.Version, f.Describe = version, f.metadata != ""
	return nil
}

func attestation(flag, word, first, second string) (string, error) {
	switch word {
	case "", "false":
		return "", nil
	case "true", "mode=" + first, first:
		return first, nil
	case "mode=" + second, second:
		return second, nil
	}
	return "", fmt.Errorf("%s %q: want %s, %s or false: %w", flag, word, first, second, errs.Invalid)
}
