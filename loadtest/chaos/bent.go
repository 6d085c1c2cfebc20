//go:build linux

package main

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"ssed/internal/redistest"
)

//go:embed bent/bent.c
var bentSource []byte

// bentTime is a redis-server whose clock can be set: a library that is loaded before
// libc adds what a file says to the time of day.
type bentTime struct {
	server string // a script that starts it
	file   *os.File
}

// bendTime needs a C compiler, as the race detector does.
func bendTime(dir string) (*bentTime, error) {
	source, library := filepath.Join(dir, "bent.c"), filepath.Join(dir, "bent.so")
	if err := os.WriteFile(source, bentSource, 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command("cc", "-O1", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("chaos: cc: %w\n%s", err, out)
	}
	file, err := os.OpenFile(filepath.Join(dir, "bent.seconds"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	b := &bentTime{server: filepath.Join(dir, "bent-redis-server"), file: file}
	if err := b.set(0); err != nil {
		return nil, err
	}
	script := fmt.Sprintf("#!/bin/sh\nBENT_SECONDS=%q LD_PRELOAD=%q exec %q \"$@\"\n", file.Name(), library, redistest.Program())
	return b, os.WriteFile(b.server, []byte(script), 0o700)
}

// set puts the clock ahead, or back with less than before.
func (b *bentTime) set(ahead time.Duration) error {
	var word [8]byte
	binary.NativeEndian.PutUint64(word[:], uint64(ahead/time.Second))
	_, err := b.file.WriteAt(word[:], 0)
	return err
}

func (b *bentTime) close() error { return b.file.Close() }
