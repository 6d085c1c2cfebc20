package ssed

import (
	"context"
	"time"
)

const (
	// balanceInterval is the time between two looks at what this instance holds.
	balanceInterval = time.Second
	// yieldInterval is for how long a lead or a lease is kept that came back, because no
	// other instance took it.
	yieldInterval = 30 * time.Second
)

// others returns a function that counts the parts but q of which is holds.
func others[T any](parts *[]T, q int, is func(T) bool) func() int {
	return func() (n int) {
		for i, part := range *parts {
			if i != q && is(part) {
				n++
			}
		}
		return n
	}
}

// balance spreads the clocks and the histories of the partitions over the instances, until
// ctx ends. Who came first holds all of them. So an instance that holds more than its share
// gives some up, and those who hold fewer are quicker to take them (see Elsewhere in
// rsub.Config and rstore.Config). Nothing is taken from anybody.
func (g *Gateway) balance(ctx context.Context) {
	leads, leases := newSpread(len(g.feeds)), newSpread(len(g.stores))
	ticker := time.NewTicker(balanceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			instances := g.fleet.Others() + 1
			for _, q := range leads.excess(now, instances, func(q int) bool { return g.feeds[q].Leads() }) {
				g.feeds[q].Yield()
			}
			for _, q := range leases.excess(now, instances, func(q int) bool { return g.stores[q].Writes() }) {
				g.stores[q].Yield()
			}
		}
	}
}

// spread is when this instance gave up what, by partition.
type spread struct{ yielded []time.Time }

func newSpread(partitions int) *spread { return &spread{make([]time.Time, partitions)} }

// excess returns of what to give up something, and takes it for given up: a quarter of
// what is beyond the share of one instance, so that not all change hands at once.
func (s *spread) excess(now time.Time, instances int, holds func(q int) bool) (list []int) {
	held := 0
	for q := range s.yielded {
		if holds(q) {
			held++
		}
	}
	share := (len(s.yielded) + instances - 1) / instances
	most := (held - share + 3) / 4
	for q := range s.yielded {
		if len(list) < most && holds(q) && (s.yielded[q].IsZero() || now.Sub(s.yielded[q]) > yieldInterval) {
			list, s.yielded[q] = append(list, q), now
		}
	}
	return list
}
