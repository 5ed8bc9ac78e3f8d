// Package archtest holds the house together: its tests fail the build when a package imports against the arrows of
// arrows.txt, when a pure room reaches for the disk, the network or the clock, and when a package does not say what
// it is for, and when what parses a stranger's bytes (strangers.txt) has no fuzz target.
//
// The arrows are data, in arrows.txt beside this file, so that a new room is one line there and the reason for it one
// line of review. Tests of a package are free to import what they need.
package archtest
