// Command slipway keeps the rules.
package main

import _ "slipway/internal/build/plan"

func main() {}
