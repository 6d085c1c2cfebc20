//go:build e2e

package e2e

import (
	"strconv"
	"testing"
	"time"

	"ssed/internal/redistest"
)

// numbers publishes 0, 1, 2, … on some channels until it is stopped.
type numbers struct {
	quit chan struct{}
	sent chan int
}

func startNumbers(t testing.TB, r *redistest.Server, interval time.Duration, channels ...string) *numbers {
	p := &numbers{quit: make(chan struct{}), sent: make(chan int, 1)}
	go func() {
		n := 0
		defer func() { p.sent <- n }()
		for ticks := time.NewTicker(interval); ; n++ {
			for _, channel := range channels {
				if _, err := r.Do("PUBLISH", channel, strconv.Itoa(n)); err != nil {
					t.Error(err)
					return
				}
			}
			select {
			case <-p.quit:
				ticks.Stop()
				n++
				return
			case <-ticks.C:
			}
		}
	}()
	t.Cleanup(func() { p.stop() })
	return p
}

// stop returns how many numbers each channel got.
func (p *numbers) stop() int {
	select {
	case <-p.quit:
	default:
		close(p.quit)
	}
	n := <-p.sent
	p.sent <- n
	return n
}
