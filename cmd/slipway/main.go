// Command slipway turns a repository and a pipeline file into a pushed container image. See README.md, or run it.
package main

import (
	"os"

	"slipway/internal/cli"
	"slipway/internal/isolation"
	"slipway/internal/sandbox"
)

func main() {
	sandbox.Init() // a sandbox's init is this program: it must not do anything else first
	isolation.Init()
	os.Exit(cli.Main())
}
