//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// progress is the line on stderr that says what is going on. On a terminal it is
// rewritten; elsewhere a line is written when the step changes.
type progress struct {
	w        io.Writer
	terminal bool
	quit     chan struct{}
	done     chan struct{}

	mu     sync.Mutex
	run    string
	step   string
	detail func() string
	width  int
	last   string
}

// redrawEvery is often enough to look alive and costs nothing measurable.
const redrawEvery = 250 * time.Millisecond

func newProgress(w io.Writer, quiet bool) *progress {
	if quiet {
		w = io.Discard
	}
	p := &progress{w: w, quit: make(chan struct{}), done: make(chan struct{})}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.terminal = err == nil
	}
	go p.redraw()
	return p
}

func (p *progress) redraw() {
	defer close(p.done)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.draw()
		case <-p.quit:
			return
		}
	}
}

// close ends the line.
func (p *progress) close() {
	close(p.quit)
	<-p.done
	if p.terminal {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
	}
}

// begin names the run: the scenario, the round and the target.
func (p *progress) begin(run string) {
	p.mu.Lock()
	p.run = run
	p.mu.Unlock()
	p.show("starting", nil)
}

// show names the step; detail, if any, is asked for at each redraw.
func (p *progress) show(step string, detail func() string) {
	p.mu.Lock()
	p.step, p.detail = step, detail
	p.mu.Unlock()
	p.draw()
}

func (p *progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.run + ": " + p.step
	if !p.terminal {
		if line != p.last {
			fmt.Fprintln(p.w, line)
			p.last = line
		}
		return
	}
	if p.detail != nil {
		line += " " + p.detail()
	}
	pad := strings.Repeat(" ", max(p.width-len(line), 0))
	fmt.Fprintf(p.w, "\r%s%s", line, pad)
	p.width = len(line)
}
