package engine

import (
	"context"
	"errors"
	"time"

	"ssed/sseproto"
)

// learnWatermark takes in how far the history is written.
func (ln *Lineage) learnWatermark(id sseproto.ID) {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	if ln.watermark.Load().Less(id) {
		ln.watermark.Store(&id)
		ln.notifyLocked()
	}
}

// awaitWatermark returns when the history is written up to id, or an error at
// the end of ctx.
func (ln *Lineage) awaitWatermark(ctx context.Context, id sseproto.ID) error {
	if !ln.watermark.Load().Less(id) {
		return nil
	}
	ln.watch()
	defer ln.unwatch()
	for {
		changed := ln.Changed()
		if !ln.watermark.Load().Less(id) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch lets watchWatermark ask the history, until unwatch is called as often.
func (ln *Lineage) watch() {
	ln.watchers.Add(1)
	select {
	case ln.watched <- struct{}{}:
	default:
	}
}

func (ln *Lineage) unwatch() { ln.watchers.Add(-1) }

// lastLook bounds the question that is asked after a wait has run out.
const lastLook = time.Second

// awaitWritten is awaitWatermark until some time, at which it asks once more: a process
// that was stopped for a while finds that passed and the history written.
func (ln *Lineage) awaitWritten(ctx context.Context, until time.Time, h History, id sseproto.ID) error {
	waiting, stop := context.WithDeadline(ctx, until)
	err := ln.awaitWatermark(waiting, id)
	stop()
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if written, lookErr := ln.askWritten(ctx, h); lookErr != nil || written.Less(id) {
		return err
	}
	return nil
}

// askWritten asks the history how far it is written, for lastLook at most.
func (ln *Lineage) askWritten(ctx context.Context, h History) (id sseproto.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, lastLook)
	defer cancel()
	if id, err = h.Written(ctx); err == nil {
		ln.learnWatermark(id)
	}
	return id, err
}

// watchEvery is how often the history is asked how far it is written while
// somebody waits. Ticks tell it as well, but only ten times a second and one
// tick late: a lost link would be noticed for 200 ms longer.
const watchEvery = 10 * time.Millisecond

// watchWatermark asks the history while somebody waits, until ctx ends.
func (ln *Lineage) watchWatermark(ctx context.Context, h History) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ln.watched:
		}
		for ln.watchers.Load() > 0 {
			if id, err := h.Written(ctx); err == nil {
				ln.learnWatermark(id)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}
