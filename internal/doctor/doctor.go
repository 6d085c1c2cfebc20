// Package doctor looks at what ssed stands on and says what to change: the kernel's
// limits, memory, Redis and the rights there, and the proxy in front, which is tried
// with messages of its own.
//
// It changes nothing that lasts: in Redis it writes keys of its own below the prefix,
// with an expiry, and deletes them; on the control channel it sends a message that
// instances ignore; for the proxy it publishes some messages on a channel that nobody
// else should have, which are in its history until that expires.
package doctor

import (
	"context"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Status is what a check comes to.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	Warn Status = "warn" // it will do, until there is more load or a fault
	Fail Status = "fail"
	Skip Status = "skip" // it could not be found out
)

// Result is what a check says.
type Result struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Text   string `json:"text"`
	Fix    string `json:"fix,omitempty"` // what to type or to change
}

// Config says what to look at.
type Config struct {
	// MaxConnections is --max-connections; 0: as many as there are files.
	MaxConnections int
	// ReservedFiles is how many files ssed needs beside those of connections.
	ReservedFiles int
	// Heartbeat and PeerTimeout are as in engine.Config: not positive is none.
	Heartbeat, PeerTimeout time.Duration
	// HeartbeatEvent is --heartbeat-event; empty: heartbeats are comments.
	HeartbeatEvent string
	// RingBytes is --ring-bytes.
	RingBytes int64
	// TrustedProxies is --trusted-proxies.
	TrustedProxies []netip.Prefix
	// System is the root of the file system, for /proc and /sys. Nil: the real one.
	System fs.FS
	// FileLimit is the hard limit of open files. 0: that of this process.
	FileLimit uint64

	Redis *Redis // nil: embedded
	Proxy *Proxy // nil: none is tried
}

// Run calls report for each check, in order.
func Run(ctx context.Context, cfg Config, report func(Result)) {
	if cfg.System == nil {
		cfg.System = os.DirFS("/")
	}
	d := &doctor{Config: cfg, report: report}
	d.files()
	d.kernel()
	d.memory()
	d.trust()
	if cfg.Redis != nil {
		d.redis(ctx)
	} else {
		d.skip("redis", "no --redis-url: ssed would run embedded, and there is nothing to check")
	}
	if cfg.Proxy != nil {
		d.proxy(ctx)
	}
}

type doctor struct {
	Config
	report func(Result)
}

func (d *doctor) say(check string, status Status, text, fix string) {
	d.report(Result{check, status, text, fix})
}

func (d *doctor) ok(check, text string)        { d.say(check, OK, text, "") }
func (d *doctor) skip(check, text string)      { d.say(check, Skip, text, "") }
func (d *doctor) warn(check, text, fix string) { d.say(check, Warn, text, fix) }
func (d *doctor) fail(check, text, fix string) { d.say(check, Fail, text, fix) }

// read returns a file of /proc or /sys without its line end.
func (d *doctor) read(path string) (text string, ok bool) {
	raw, err := fs.ReadFile(d.System, strings.TrimPrefix(path, "/"))
	return strings.TrimSpace(string(raw)), err == nil
}
