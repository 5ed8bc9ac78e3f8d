// Command slipway turns a repository and a pipeline file into a pushed container image. See README.md, or run it.
package main

import (
	"os"

	"slipway/internal/cli"
)

func main() { os.Exit(cli.Main()) }
