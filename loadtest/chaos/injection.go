//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// faults goes through the plan.
func (r *runner) faults(ctx context.Context) error {
	if r.scenario.mixed > 0 {
		return r.mix(ctx)
	}
	for range r.scenario.rounds {
		for _, f := range r.scenario.faults {
			if err := r.pause(ctx, calm); err != nil {
				return err
			}
			if err := r.inject(ctx, f, r.fork()); err != nil {
				return err
			}
		}
	}
	return r.pause(ctx, calm)
}

func (r *runner) pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(t):
		return nil
	}
}

// inject does one fault and measures until everything is well again.
func (r *runner) inject(ctx context.Context, f fault, rng *rand.Rand) error {
	d := newDamage(r.cluster, rng, r.clock)
	w := row{Scenario: r.scenario.name, Fault: f.name, Lossless: f.lossless && r.scenario.setup.ttl == 0, Began: r.clock.now()}
	if err := f.inject(ctx, d); err != nil {
		w.Error = err.Error()
	}
	w.Ended, w.Hit, w.Note = r.clock.now(), d.hit, d.note
	if err := r.cluster.awaitReady(ctx); err != nil {
		return fmt.Errorf("after %s: %w", f.name, err)
	}
	if err := r.pause(ctx, aftermath); err != nil {
		return err
	}
	w.Settled = r.clock.now()
	r.measure(&w, d.answered)
	r.say("%-32s %5.1f s  silent: hit %v, others %v, history %v", f.name, (w.Settled - w.Began).Seconds(), w.HitSilent, w.OthersSilent, w.HistorySilent)
	for _, text := range []string{w.Note, w.Error} {
		if text != "" {
			r.say("  %s", text)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Rows = append(r.result.Rows, w)
	return nil
}

// measure reads the timelines.
func (r *runner) measure(w *row, answered time.Duration) {
	hit := make(map[int]bool)
	for _, i := range w.Hit {
		hit[i] = true
		w.HitSilent = max(w.HitSilent, r.cluster.fleet.lines[i].silence(w.Began, w.Settled))
	}
	w.HistorySilent = r.watermark.silence(w.Began, w.Settled)
	others := false
	for i := range r.scenario.setup.instances {
		line := r.cluster.fleet.lines[i]
		if !hit[i] {
			silent := line.silence(w.Began, w.Settled)
			if others {
				silent = min(silent, w.OthersSilent)
			}
			w.OthersSilent, others = silent, true
		}
		if answered > 0 {
			if at, ok := line.next(answered); ok {
				w.AfterAnswer = max(w.AfterAnswer, at-answered)
			} else {
				w.AfterAnswer = w.Settled - answered
			}
		}
	}
}

// mix starts faults at random moments, two at once at most: of four instances
// two are then always well. Those beside them come one after the other.
func (r *runner) mix(ctx context.Context) error {
	var mixes []*mixture
	if len(r.scenario.beside) > 0 {
		mixes = append(mixes, &mixture{runner: r, faults: r.scenario.beside, rng: r.fork(), places: 1})
	}
	if len(r.scenario.faults) > 0 {
		mixes = append(mixes, &mixture{runner: r, faults: r.scenario.faults, rng: r.rng, places: 2})
	}
	errs := make([]error, len(mixes))
	end := r.clock.now() + r.scenario.mixed
	var running sync.WaitGroup
	for i, m := range mixes {
		running.Go(func() { errs[i] = m.run(ctx, end) })
	}
	running.Wait()
	for _, in := range r.cluster.fleet.running() {
		_ = in.signal(syscall.SIGCONT)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.pause(ctx, calm)
}

// mixture is faults at random moments, as many at once as there are places.
type mixture struct {
	*runner
	faults []fault
	rng    *rand.Rand
	places int
}

func (m *mixture) run(ctx context.Context, end time.Duration) error {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, m.places)
	var failed atomic.Pointer[error]
	for m.clock.now() < end && failed.Load() == nil {
		if err := m.pause(ctx, time.Duration(m.rng.ExpFloat64()*float64(700*time.Millisecond))); err != nil {
			return err
		}
		f := m.faults[m.rng.IntN(len(m.faults))]
		rng := fork(m.rng)
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			if err := m.injectMixed(ctx, f, rng); err != nil {
				failed.Store(&err)
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// injectMixed does one fault among others. What it found may be down already, and
// its own time without delivery tells nothing.
func (r *runner) injectMixed(ctx context.Context, f fault, rng *rand.Rand) error {
	d := newDamage(r.cluster, rng, r.clock)
	w := row{Scenario: r.scenario.name, Fault: f.name, Began: r.clock.now()}
	err := f.inject(ctx, d)
	w.Ended = r.clock.now()
	w.Settled, w.Hit = w.Ended, d.hit
	r.say("%-32s %5.1f s", f.name, (w.Ended - w.Began).Seconds())
	if err != nil && ctx.Err() == nil {
		w.Error = err.Error()
		r.say("  %s", w.Error)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Rows = append(r.result.Rows, w)
	return ctx.Err()
}
