//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Faults of what the history keeps, and for how long.
var (
	ttlLonger = fault{
		"history kept longer", "every instance in turn is restarted with `--history-ttl 1h` in the place of 2 s", false,
		func(ctx context.Context, d *damage) error { return d.roll(ctx, "--history-ttl=1h") },
	}
	ttlShorter = fault{
		"history kept shorter", "every instance in turn is restarted with `--history-ttl 2s` in the place of 1 h", false,
		func(ctx context.Context, d *damage) error { return d.roll(ctx, "--history-ttl=2s") },
	}
	fewerKept = fault{
		"fewer messages kept", "every instance in turn is restarted with `--history-max 10` in the place of 100", false,
		func(ctx context.Context, d *damage) error { return d.roll(ctx, "--history-max=10") },
	}
	moreKept = fault{
		"more messages kept", "every instance in turn is restarted with `--history-max 1000` in the place of 10", false,
		func(ctx context.Context, d *damage) error { return d.roll(ctx, "--history-max=1000") },
	}
	lifeChanged = fault{
		"history's life changed", "every instance in turn is restarted with another `--history-ttl`, of one to nine hours", false,
		func(ctx context.Context, d *damage) error {
			return d.roll(ctx, fmt.Sprintf("--history-ttl=%dh", 1+d.rng.IntN(9)))
		},
	}
	clockAhead = fault{
		"clock of Redis a day ahead", "for 0.6 s the clock of Redis is a day ahead: every key with a time to live expires", false,
		func(ctx context.Context, d *damage) error {
			before := d.counter("expired_keys")
			err := d.bent.set(24 * time.Hour)
			err = errors.Join(err, d.wait(ctx, 600*time.Millisecond), d.bent.set(0))
			if err == nil && d.counter("expired_keys") == before {
				err = errors.New("chaos: nothing has expired")
			}
			return err
		},
	}
	writesRefused = fault{
		"writes refused", "`min-replicas-to-write 1` for 0.75 s, while histories expire", false,
		func(ctx context.Context, d *damage) error {
			_, err := d.do("CONFIG", "SET", "min-replicas-to-write", "1")
			err = errors.Join(err, d.wait(ctx, 750*time.Millisecond))
			_, err2 := d.do("CONFIG", "SET", "min-replicas-to-write", "0")
			return errors.Join(err, err2)
		},
	}
	evictLRU = fault{
		"eviction, allkeys-lru", "`maxmemory` with `allkeys-lru`, and other keys that need the memory", false,
		func(ctx context.Context, d *damage) error { return d.evict(ctx, "allkeys-lru") },
	}
	evictAny = fault{
		"eviction, allkeys-random", "the same with `allkeys-random`: the keys of the clock and of the gap markers too", false,
		func(ctx context.Context, d *damage) error { return d.evict(ctx, "allkeys-random") },
	}
	evictVolatile = fault{
		"eviction, volatile-lru", "the same with `volatile-lru`, the default of some managed services", false,
		func(ctx context.Context, d *damage) error { return d.evict(ctx, "volatile-lru") },
	}
	gapsDeleted = fault{
		"gap markers deleted", "all links are killed, and the key of the markers of that outage is deleted", false,
		func(ctx context.Context, d *damage) error {
			if _, err := d.do("CLIENT", "KILL", "TYPE", "pubsub"); err != nil {
				return err
			}
			err := poll(ctx, readyTimeout, func() error {
				n, err := d.do("LLEN", d.keys.Gaps)
				if err == nil && n == int64(0) {
					err = errors.New("chaos: the outage has no marker")
				}
				return err
			})
			_, err2 := d.do("DEL", d.keys.Gaps)
			return errors.Join(err, err2)
		},
	}
)

// streamsTrimmed is done by hand. That a stream was deleted is told by the channel's next
// message, and not before: such losses would be silent here.
var streamsTrimmed = fault{
	"streams trimmed by hand", "`XTRIM … MAXLEN 2` of every other stream of the partition that is hit", false,
	func(_ context.Context, d *damage) error {
		reply, err := d.do("KEYS", d.keys.Stream("chaos:*"))
		if err != nil {
			return err
		}
		keys, _ := reply.([]any)
		for i, key := range keys {
			if name, ok := key.(string); ok && i%2 == 0 {
				if _, err := d.do("XTRIM", name, "MAXLEN", "2"); err != nil {
					return err
				}
			}
		}
		d.note = fmt.Sprintf("%d streams", (len(keys)+1)/2)
		if len(keys) == 0 {
			return errors.New("chaos: there is no stream")
		}
		return nil
	},
}

// counter is a number of INFO of the primary.
func (d *damage) counter(name string) int {
	for line := range strings.Lines(d.text("INFO", "everything")) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

// Ballast of an eviction: keys of other programs.
const (
	ballastRoom = 1 << 20 // what is free when it begins
	ballastKey  = 64 << 10
	ballastKeys = 400
	evictedKeys = 30 // then it has done enough
)

// evict makes Redis evict keys under a policy.
func (d *damage) evict(ctx context.Context, policy string) (err error) {
	before := d.counter("evicted_keys")
	defer func() {
		_, err2 := d.do("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
		keys := []string{"UNLINK"}
		for i := range ballastKeys {
			keys = append(keys, "ballast:"+strconv.Itoa(i))
		}
		_, err3 := d.do(keys...)
		err = errors.Join(err, err2, err3)
	}()
	limit := strconv.Itoa(d.counter("used_memory") + ballastRoom)
	if _, err := d.do("CONFIG", "SET", "maxmemory", limit, "maxmemory-policy", policy); err != nil {
		return err
	}
	value, evicted := strings.Repeat("b", ballastKey), 0
	for i := 0; i < ballastKeys && evicted < evictedKeys; i++ {
		// An error says that nothing was left to evict.
		_, _ = d.do("SET", "ballast:"+strconv.Itoa(i), value, "EX", "600")
		evicted = d.counter("evicted_keys") - before
		if err := d.wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	d.note = fmt.Sprintf("%d keys evicted", evicted)
	if evicted == 0 {
		return errors.New("chaos: nothing was evicted")
	}
	return d.wait(ctx, time.Second)
}
