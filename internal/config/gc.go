package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"go.yaml.in/yaml/v4"
)

// GC bounds what the home folder keeps. A bound that is zero is the default.
type GC struct {
	// MaxUsed is how much all of it may take.
	MaxUsed Amount
	// MinFree is how much is to stay free in its file system, for whoever needs it.
	MinFree Amount
	// MaxCacheMount is how much one cache mount may take, MaxCacheMounts how much all of them.
	MaxCacheMount, MaxCacheMounts Amount
}

// Amount is an amount of disk space: of bytes, or in percent of the file system, or without a bound.
type Amount struct {
	Bytes   int64
	Percent float64
	Off     bool
}

// Of returns the bytes in a file system of the given size, or otherwise when the amount is zero. ok is false when
// there is no bound.
func (a Amount) Of(total int64, otherwise int64) (bytes int64, ok bool) {
	switch {
	case a.Off:
		return 0, false
	case a.Percent > 0:
		return int64(a.Percent / 100 * float64(total)), true
	case a.Bytes > 0:
		return a.Bytes, true
	}
	return otherwise, true
}

// parseAmount reads 512m, 10g, 20% or off.
func parseAmount(s string) (Amount, error) {
	if s == "off" {
		return Amount{Off: true}, nil
	}
	if number, ok := strings.CutSuffix(s, "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(p) || p <= 0 || p > 100 {
			return Amount{}, invalid(s + ": want more than 0% and at most 100%")
		}
		return Amount{Percent: p}, nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return Amount{}, invalid(s + ": want a size such as 512m or 10g, a part of the file system such as 20%, or off")
	}
	return Amount{Bytes: n}, nil
}

// bounds are the settings of GC, by name.
func (g *GC) bounds() map[string]*Amount {
	return map[string]*Amount{
		"maxUsed": &g.MaxUsed, "minFree": &g.MinFree, "maxCacheMount": &g.MaxCacheMount, "maxCacheMounts": &g.MaxCacheMounts,
	}
}

// addGC reads KEY=AMOUNT, or off for all.
func (c *Config) addGC(word string) error {
	key, text, ok := strings.Cut(word, "=")
	if word == "off" {
		for _, bound := range c.GC.bounds() {
			*bound = Amount{Off: true}
		}
		return nil
	}
	bound := c.GC.bounds()[key]
	if !ok || bound == nil {
		return invalid("want off, or KEY=AMOUNT with a KEY of maxUsed, minFree, maxCacheMount, maxCacheMounts")
	}
	amount, err := parseAmount(text)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	*bound = amount
	return nil
}

// over lays the bounds of g over those of below.
func (g GC) over(below GC) GC {
	top := g.bounds()
	for key, bound := range below.bounds() {
		if *top[key] != (Amount{}) {
			*bound = *top[key]
		}
	}
	return below
}

// gc reads the key gc: off, or a mapping of bounds.
func (d *decoder) gc(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "off" && n.Value != "false" {
			d.fail(n, "%q: want off, or a mapping of KEY: AMOUNT", n.Value)
			return
		}
		d.note(n, d.config.addGC("off"))
		return
	}
	known := d.config.GC.bounds()
	for key, value := range d.mapping(n) {
		if known[key.Value] == nil {
			d.unknown(key, names(known))
			continue
		}
		if value.Kind != yaml.ScalarNode {
			d.fail(value, "want text")
			continue
		}
		text := value.Value
		if text == "false" {
			text = "off"
		}
		d.note(value, d.config.addGC(key.Value+"="+text))
	}
}
