//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"ssed/internal/redistest"
)

// dividedFor is far above the 2 s that a new primary leaves the former one, above
// --history-wait, and above what it takes to notice and to promote.
const dividedFor = 8 * time.Second

// Faults of the network between a primary with its sentinel, two others with theirs, instances and
// publishers. Those on the side of the former primary stay with it until the network is whole.
var (
	primaryApart = fault{
		"primary apart", "for 8 s the network is divided: the primary with its sentinel and half of the instances and publishers is one side. The other one has a new primary meanwhile", false,
		func(ctx context.Context, d *damage) error { return d.partPrimary(ctx, noWay, d.half()) },
	}
	primaryAlone = fault{
		"primary alone apart", "the same, without an instance on its side", false,
		func(ctx context.Context, d *damage) error { return d.partPrimary(ctx, noWay, nil) },
	}
	primaryMute = fault{
		"primary's side not heard", "the same, but what is sent to that side arrives there", false,
		func(ctx context.Context, d *damage) error { return d.partPrimary(ctx, inward, d.half()) },
	}
	primaryDeaf = fault{
		"primary's side hears nobody", "the same, but what that side sends arrives", false,
		func(ctx context.Context, d *damage) error { return d.partPrimary(ctx, outward, d.half()) },
	}
	replicaApart = fault{
		"replica apart", "for 8 s a replica with its sentinel and half of the instances and publishers do not see the rest", true,
		func(ctx context.Context, d *damage) error {
			others := d.others(d.primary())
			s := others[d.rng.IntN(len(others))]
			return d.part(ctx, noWay, append(d.half(), hostOf(s.Port())))
		},
	}
)

// The same of a cluster.
var (
	clockApart = fault{
		"clock's node apart", "for 8 s the network is divided: the node of the clock with half of the instances and publishers, and the rest, where its replica is promoted", false,
		func(ctx context.Context, d *damage) error { return d.partClock(ctx, noWay) },
	}
	clockMute = fault{
		"clock's node not heard", "the same, but what is sent to that side arrives there", false,
		func(ctx context.Context, d *damage) error { return d.partClock(ctx, inward) },
	}
	clockDeaf = fault{
		"clock's node hears nobody", "the same, but what that side sends arrives", false,
		func(ctx context.Context, d *damage) error { return d.partClock(ctx, outward) },
	}
	halvesApart = fault{
		"cluster in halves", "for 8 s three of six nodes with half of the instances and publishers do not see the others. At most one half goes on, and it may lack slots", false,
		func(ctx context.Context, d *damage) error {
			apart := d.half()
			for _, i := range d.rng.Perm(len(d.nodes.Nodes))[:len(d.nodes.Nodes)/2] {
				apart = append(apart, hostOf(d.nodes.Nodes[i].Port()))
			}
			return errors.Join(d.part(ctx, noWay, apart), d.nodes.AwaitHealth())
		},
	}
)

// half are half of the instances that run, which are hit, and about half of the publishers.
func (d *damage) half() (hosts []host) {
	running := d.fleet.running()
	for _, i := range d.rng.Perm(len(running))[:len(running)/2] {
		hosts = append(hosts, host(d.hits(running[i]).name()))
	}
	for i := range d.publishers {
		if d.rng.IntN(2) == 0 {
			hosts = append(hosts, publisherHost(i))
		}
	}
	return hosts
}

// others are all servers but one.
func (d *damage) others(s *redistest.Server) (list []*redistest.Server) {
	for _, other := range d.servers() {
		if other != s {
			list = append(list, other)
		}
	}
	return list
}

// part divides the network for a time.
func (d *damage) part(ctx context.Context, way way, apart []host) error {
	return d.partUntil(ctx, way, apart, func() error { return nil })
}

// partUntil is part with a look before the network is whole again.
func (d *damage) partUntil(ctx context.Context, way way, apart []host, look func() error) error {
	d.network.divide(way, apart...)
	err := errors.Join(d.wait(ctx, dividedFor), look())
	d.network.heal()
	d.answered = d.clock.now()
	return err
}

// replaced tells whether the primary of before is one no more.
func (d *damage) replaced(old *redistest.Server) func() error {
	return func() error {
		if d.primary() == old {
			return errors.New("chaos: nobody was promoted while the network was divided")
		}
		return nil
	}
}

func (d *damage) partPrimary(ctx context.Context, way way, apart []host) error {
	old := d.primary()
	err := d.partUntil(ctx, way, append(apart, hostOf(old.Port())), d.replaced(old))
	return errors.Join(err, d.awaitPromotion(ctx, old))
}

func (d *damage) partClock(ctx context.Context, way way) error {
	old := d.primary()
	if err := d.partUntil(ctx, way, append(d.half(), hostOf(old.Port())), d.replaced(old)); err != nil {
		return errors.Join(err, d.nodes.AwaitHealth())
	}
	return d.awaitHealth(ctx, old)
}
