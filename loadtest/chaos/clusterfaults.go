//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ssed/internal/redistest"
)

// Faults of a Redis Cluster. The node of the clock is the primary of the slot in which ssed
// has everything of the partition that is hit.
var (
	clockPromoted = fault{
		"clock's node replaced", "`CLUSTER FAILOVER`: its replica is promoted in order", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			replica := d.nodes.ReplicaOf(old)
			if replica == nil {
				return errors.New("chaos: the node of the clock has no replica")
			}
			if err := d.nodes.Promote(replica); err != nil {
				return err
			}
			return d.awaitHealth(ctx, old)
		},
	}
	clockKilled = fault{
		"clock's node killed", "`kill -9`; it comes back as a replica", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			old.Kill()
			err := d.awaitSwitch(ctx, old)
			d.answered = d.clock.now()
			return errors.Join(err, old.Restart(), d.awaitHealth(ctx, old))
		},
	}
	clockFrozen = fault{
		"clock's node frozen until it is replaced", "it wakes up 1 s after the promotion, as a second primary", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			err := old.Pause()
			err = errors.Join(err, d.awaitSwitch(ctx, old))
			d.answered = d.clock.now()
			return errors.Join(err, d.wait(ctx, time.Second), old.Resume(), d.awaitHealth(ctx, old))
		},
	}
	clockFrozenShort = fault{
		"clock's node frozen for a moment", "for three quarters of the node timeout: nobody replaces it, and the others cut their links to it", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			err := old.Pause()
			err = errors.Join(err, d.wait(ctx, nodeTimeout*3/4), old.Resume())
			return errors.Join(err, d.nodes.AwaitHealth())
		},
	}
	otherKilled = fault{
		"another node killed", "`kill -9` of a primary that has nothing of ssed; its replica is promoted", false,
		func(ctx context.Context, d *damage) error {
			s, err := d.otherPrimary()
			if err != nil {
				return err
			}
			s.Kill()
			err = d.wait(ctx, 3*nodeTimeout)
			return errors.Join(err, s.Restart(), d.nodes.AwaitHealth())
		},
	}
	clockRestarted = fault{
		"clock's node restarted", "`SIGTERM` and start, with an append-only file: nobody replaces it", false,
		func(_ context.Context, d *damage) error {
			err := d.primary().Restart()
			d.answered = d.clock.now()
			return errors.Join(err, d.nodes.AwaitHealth())
		},
	}
	busCut = fault{
		"links of the bus killed", "`DEBUG CLUSTERLINK KILL`: all links between the node of the clock and another one", false,
		func(ctx context.Context, d *damage) error {
			s, err := d.otherPrimary()
			if err != nil {
				return err
			}
			id, err := s.Do("CLUSTER", "MYID")
			if err != nil {
				return err
			}
			_, err = d.do("DEBUG", "CLUSTERLINK", "KILL", "ALL", fmt.Sprint(id))
			return errors.Join(err, d.wait(ctx, time.Second), d.nodes.AwaitHealth())
		},
	}
	slotMoved = fault{
		"slot moved", "all keys of ssed go to another primary, ten at a time, as `redis-cli --cluster reshard` does", false,
		func(_ context.Context, d *damage) error { return d.moveSlot(nil) },
	}
	slotMovedHalf = fault{
		"slot moved by half", "the same, and for 2 s half of the keys are at each of two nodes", false,
		func(ctx context.Context, d *damage) error {
			return d.moveSlot(func() { _ = d.wait(ctx, 2*time.Second) })
		},
	}
)

// otherPrimary is a primary that does not serve our slot.
func (d *damage) otherPrimary() (*redistest.Server, error) {
	now := d.primary()
	for _, share := range d.rng.Perm(3) {
		s, err := d.nodes.Primary(share*(1<<14)/3 + 1)
		if err != nil || s != now {
			return s, err
		}
	}
	return nil, errors.New("chaos: all slots are at one node")
}

func (d *damage) moveSlot(halfway func()) error {
	to, err := d.otherPrimary()
	if err != nil {
		return err
	}
	return errors.Join(d.nodes.Move(d.keys.Slot, to, halfway), d.nodes.AwaitHealth())
}

// awaitHealth returns when all nodes serve, old as a replica.
func (d *damage) awaitHealth(ctx context.Context, old *redistest.Server) error {
	if d.answered == 0 {
		d.answered = d.clock.now()
	}
	err := d.awaitSwitch(ctx, old)
	if err == nil {
		err = poll(ctx, readyTimeout, func() error { return isReplica(old) })
	}
	return errors.Join(err, d.nodes.AwaitHealth())
}

// isReplica returns an error while a server says that it is a primary. Who is promoted is one
// before the former primary hears of it.
func isReplica(s *redistest.Server) error {
	reply, err := s.Do("INFO", "replication")
	if text, _ := reply.(string); err == nil && !strings.Contains(text, "role:slave") {
		err = fmt.Errorf("chaos: %s is no replica yet", s.Addr())
	}
	return err
}
