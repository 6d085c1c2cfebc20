package throttle

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// burst is how many lines of a kind come through at once: more listeners and parts
	// than a start or a stop has lines of one kind.
	burst = 20
	// refill is the time after which one more line of a kind comes through.
	refill = 5 * time.Second
	// maxKinds bounds memory. Kinds are texts of the program, some hundred with those of
	// libraries; beyond, all others count as one kind.
	maxKinds = 1000
)

// Handler bounds the lines of each kind: level and message, whatever the attributes are.
// Twenty come through at once, then one in five seconds, which has the number of those
// left out as left_out. Lines of debug are not bounded: who asks for them wants all.
func Handler(next slog.Handler) slog.Handler {
	return &handler{next, &kinds{counts: map[kind]*count{}}}
}

// Unbounded returns the handler that h was made of, for lines of which none may be
// missing; h itself, if it was not made here.
func Unbounded(h slog.Handler) slog.Handler {
	if bounded, ok := h.(*handler); ok {
		return bounded.Handler
	}
	return h
}

type handler struct {
	slog.Handler
	kinds *kinds // shared by what WithAttrs and WithGroup make
}

type kind struct {
	level   slog.Level
	message string
}

// count is a bucket of one kind.
type count struct {
	tokens  int
	filled  time.Time // up to when tokens have been given
	leftOut int
}

type kinds struct {
	mu     sync.Mutex
	counts map[kind]*count // guarded by mu
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.Handler.Handle(ctx, r)
	}
	leftOut, ok := h.kinds.take(kind{r.Level, r.Message}, time.Now())
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.kinds}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.kinds}
}

// take reports whether a line comes through, and how many of its kind did not since the
// last one.
func (k *kinds) take(which kind, now time.Time) (leftOut int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.counts[which]
	if c == nil {
		if len(k.counts) >= maxKinds {
			which = kind{}
		}
		if c = k.counts[which]; c == nil {
			c = &count{tokens: burst, filled: now}
			k.counts[which] = c
		}
	}
	if given := int(now.Sub(c.filled) / refill); given > 0 {
		c.tokens = min(c.tokens+given, burst)
		c.filled = c.filled.Add(time.Duration(given) * refill)
	}
	if c.tokens == 0 {
		c.leftOut++
		return 0, false
	}
	c.tokens--
	leftOut, c.leftOut = c.leftOut, 0
	return leftOut, true
}
