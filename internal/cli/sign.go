package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci/sign"
)

func newSign(e env) *cobra.Command {
	var key string
	var words config.Words
	cmd := &cobra.Command{
		Use:   "sign REF",
		Short: "Sign an image with a key",
		Long: `Sign an image with a key.

The signature is cosign's: a tag beside the image, sha256-DIGEST.sig, that cosign and
'slipway verify' read. The key is ECDSA, Ed25519 or RSA in PEM, or cosign's own file,
whose password is taken from $COSIGN_PASSWORD. It is REF's digest of this moment that
is signed; standard output gets it.`,
		Example: `  openssl ecparam -name prime256v1 -genkey -noout -out app.key
  slipway sign --key app.key 127.0.0.1:5000/app:v1`,
		GroupID: groupBuild,
		Args:    arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return usageError(cmd, errors.New("--key is missing"))
			}
			signer, err := e.signer(key)
			if err != nil {
				return err
			}
			a, err := openApp(e, words)
			if err != nil {
				return err
			}
			signed, err := a.Sign(cmd.Context(), args[0], signer)
			if err != nil {
				return err
			}
			return printLine(e, signed.Image+"@"+signed.Digest.String())
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "sign with the private key in `FILE`, or in the variable that env://NAME names")
	registryFlags(cmd.Flags(), &words)
	return cmd
}

func newVerify(e env) *cobra.Command {
	var key string
	var words config.Words
	var out format
	cmd := &cobra.Command{
		Use:   "verify REF",
		Short: "Verify that an image was signed with a key",
		Long: `Verify that an image was signed with a key.

It is REF's digest of this moment that is verified; standard output gets it, and
whoever goes on should go on with that. A signature that cosign made with a key is
one, too. An image that nobody signed fails with status 1, one that the key did not
sign with status 4.`,
		Example: `  openssl pkey -in app.key -pubout -out app.pub
  slipway verify --key app.pub 127.0.0.1:5000/app:v1`,
		GroupID: groupBuild,
		Args:    arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return usageError(cmd, errors.New("--key is missing"))
			}
			data, err := e.key(key)
			if err != nil {
				return err
			}
			verifier, err := sign.ReadVerifier(data)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			a, err := openApp(e, words)
			if err != nil {
				return err
			}
			signed, err := a.Verify(cmd.Context(), args[0], verifier)
			if err != nil {
				return err
			}
			if out == asJSON {
				return printJSON(e.stdout, signed)
			}
			return printLine(e, signed.Image+"@"+signed.Digest.String())
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "verify with the public key in `FILE`, or in the variable that env://NAME names")
	registryFlags(cmd.Flags(), &words)
	outputFlag(cmd.Flags(), &out)
	return cmd
}

// signer reads a private key.
func (e env) signer(key string) (sign.Signer, error) {
	data, err := e.key(key)
	if err != nil {
		return sign.Signer{}, err
	}
	s, err := sign.ReadSigner(data, func() ([]byte, error) { return []byte(e.getenv("COSIGN_PASSWORD")), nil })
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
		if errors.Is(err, errs.Denied) {
			err = errs.Hint(err, "set COSIGN_PASSWORD to the key's password")
		}
	}
	return s, err
}

// key reads a key from a file, or as cosign does from a variable.
func (e env) key(key string) ([]byte, error) {
	if name, ok := strings.CutPrefix(key, "env://"); ok {
		if data := e.getenv(name); data != "" {
			return []byte(data), nil
		}
		return nil, fmt.Errorf("key: the variable %s is empty: %w", name, errs.Invalid)
	}
	data, err := os.ReadFile(key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", errs.Mark(err, errs.Invalid))
	}
	return data, nil
}

func printLine(e env, line string) error {
	if _, err := fmt.Fprintln(e.stdout, line); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
