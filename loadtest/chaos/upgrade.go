//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// oldCommit is the program that a fleet is upgraded from.
const oldCommit = "5c12ba95f1318e3e3b6c54cc7bdee1c18f99591f"

// buildOld builds the program of oldCommit from the repository that this runs in.
func buildOld(ctx context.Context, dir string) (bin string, err error) {
	tree, bin := filepath.Join(dir, "old"), filepath.Join(dir, "ssed-old")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return "", err
	}
	top, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("chaos: upgrade needs the git repository, or --old-bin: %w", err)
	}
	run := func(dir, name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("chaos: the program of %.7s: %s: %w\n%s", oldCommit, name, err, out)
		}
		return nil
	}
	archive := filepath.Join(dir, "old.tar")
	if err := run(strings.TrimSpace(string(top)), "git", "archive", "--output", archive, oldCommit); err != nil {
		return "", err
	}
	if err := run(tree, "tar", "-xf", archive); err != nil {
		return "", err
	}
	return bin, run(tree, "go", "build", "-buildvcs=false", "-o", bin, "./cmd/ssed")
}

// Faults of a fleet in which two programs work together.
var (
	upgradeHalf = fault{
		"half of the fleet upgraded", "two of four instances are ended with `SIGTERM`, one after the other, and the new program starts in their place", true,
		func(ctx context.Context, d *damage) error { return d.replace(ctx, d.bin, 2) },
	}
	upgradeRest = fault{
		"the rest upgraded", "the same with the others", true,
		func(ctx context.Context, d *damage) error { return d.replace(ctx, d.bin, len(d.fleet.instances)) },
	}
	downgradeHalf = fault{
		"half of the fleet downgraded", "two of four instances are ended, and the earlier program starts in their place", true,
		func(ctx context.Context, d *damage) error { return d.replace(ctx, d.old, 2) },
	}
	downgradeRest = fault{
		"the rest downgraded", "the same with the others", true,
		func(ctx context.Context, d *damage) error { return d.replace(ctx, d.old, len(d.fleet.instances)) },
	}
)

// replace starts a program in the place of up to most instances that run another, the
// next one when all are ready.
func (d *damage) replace(ctx context.Context, bin string, most int) error {
	done := 0
	for _, in := range d.fleet.running() {
		if done == most {
			break
		}
		if in.program() == bin {
			continue
		}
		done++
		if err := d.hits(in).replace(bin); err != nil {
			return err
		}
		if err := d.awaitReady(ctx); err != nil {
			return err
		}
	}
	if done == 0 {
		return fmt.Errorf("chaos: no instance to replace")
	}
	return nil
}
