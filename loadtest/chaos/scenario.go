//go:build linux

package main

import (
	"slices"
	"time"
)

// scenario is a set-up and the faults that it goes through, one after the other
// or, when mixed, at random moments over each other.
type scenario struct {
	name   string
	setup  setup
	faults []fault
	rounds int // how often the list is gone through
	mixed  time.Duration
	// beside are faults that come over the others of a mixed scenario, one after the other:
	// two of them at once might take both nodes that have the same data.
	beside []fault
	wide   bool // 20,000 open channels on each instance, clients that stay
}

const wideName = "wide"

// clusterFaults are for both feeds. A slot that has moved stays where it is.
func clusterFaults() []fault {
	return []fault{
		killLink, clockPromoted, clockKilled, slotMoved, clockFrozen, otherKilled, slotMovedHalf, clockFrozenShort,
		killAllLinks, scriptFlush, killWriter, killAny,
	}
}

// partitionFaults leave out that a node without ssed dies: all have a partition at first.
func partitionFaults() []fault {
	return []fault{
		killLink, clockPromoted, clockKilled, killWriter, slotMoved, killLink, clockFrozen, killAllLinks, slotMovedHalf,
		scriptFlush, killAny, clockFrozenShort,
	}
}

// plenty is more than any scenario publishes on one channel.
const plenty = 100_000

// scenarios is the whole plan.
func scenarios() []scenario {
	four := setup{instances: 4, historyMax: plenty}
	with := func(change func(*setup)) setup {
		s := four
		change(&s)
		return s
	}
	return []scenario{
		{
			name:   "links",
			setup:  with(func(s *setup) { s.proxied, s.ring = true, "64MiB" }),
			faults: []fault{killLink, killCommands, resetPeer, latency, blackHole, killAllLinks, cutReader},
			rounds: 2,
		},
		{
			name:   "instances",
			setup:  with(func(s *setup) { s.joiner = true }),
			faults: []fault{killLink, killWriter, killAny, freezeWriter, deleteLease, twoWriters, scriptFlush, joiner, rollingRestart, clockBack},
			rounds: 2,
		},
		{
			name:   "redis",
			setup:  with(func(s *setup) { s.persist = true }),
			faults: []fault{pauseShort, memoryFull, wrongType, restartKept, crashKept, pauseLong},
			rounds: 1,
		},
		{
			name:   "data-lost",
			setup:  four,
			faults: []fault{restartEmpty, flushAll, restartEmpty, flushAll},
			rounds: 1,
		},
		{
			name:   "failover",
			setup:  with(func(s *setup) { s.sentinel = true }),
			faults: []fault{failoverOrdered, failoverKilled, failoverFrozen},
			rounds: 2,
		},
		{
			name:   wideName,
			setup:  setup{instances: 2, historyMax: plenty, ring: "64MiB"},
			faults: []fault{killLink},
			rounds: 3,
			wide:   true,
		},
		{
			name:   "two-feeds",
			setup:  setup{instances: 1, feeds: 2, historyMax: plenty},
			faults: []fault{killOneFeed},
			rounds: 5,
		},
		{
			// Redis keeps its data, so what was added must be in the history, gaps or not.
			name:   "inbox",
			setup:  with(func(s *setup) { s.inbox, s.persist, s.joiner = true, true, true }),
			faults: []fault{killAllLinks, killCommands, killWriter, killAny, twoWriters, scriptFlush, joiner, rollingRestart, clockBack, memoryFull, restartKept, crashKept},
			rounds: 1,
		},
		{
			name:  "inbox-mixed",
			setup: with(func(s *setup) { s.inbox, s.persist, s.joiner = true, true, true }),
			faults: []fault{
				killLink, killAllLinks, killCommands, killWriter, killAny, freezeWriter, deleteLease, twoWriters, scriptFlush,
				joiner, pauseShort, restartKept, crashKept,
			},
			mixed: 40 * time.Second,
		},
		{
			name:   "inbox-failover",
			setup:  with(func(s *setup) { s.inbox, s.sentinel = true, true }),
			faults: []fault{failoverOrdered, failoverKilled, failoverFrozen},
			rounds: 2,
		},
		{
			name:   "cluster-sharded",
			setup:  with(func(s *setup) { s.cluster, s.sharded, s.inbox = true, true, true }),
			faults: clusterFaults(),
			rounds: 1,
		},
		{
			name:   "cluster-pattern",
			setup:  with(func(s *setup) { s.cluster, s.inbox = true, true }),
			faults: append(clusterFaults(), busCut),
			rounds: 1,
		},
		{
			// Each fault hits one partition: its node, its slot, its writer, a link to it.
			name:   "partitions",
			setup:  with(func(s *setup) { s.cluster, s.sharded, s.inbox, s.partitions = true, true, true, 3 }),
			faults: partitionFaults(),
			rounds: 1,
		},
		{
			name:   "divided",
			setup:  with(func(s *setup) { s.sentinel, s.inbox, s.divisible = true, true, true }),
			faults: []fault{primaryApart, replicaApart, primaryMute, primaryDeaf, primaryAlone},
			rounds: 1,
		},
		{
			name:   "divided-cluster",
			setup:  with(func(s *setup) { s.cluster, s.sharded, s.inbox, s.partitions, s.divisible = true, true, true, 3, true }),
			faults: []fault{clockApart, halvesApart, clockMute, clockDeaf, halvesApart},
			rounds: 1,
		},
		{
			// Each node keeps its data over a restart.
			name: "partitions-mixed",
			setup: with(func(s *setup) {
				s.cluster, s.sharded, s.inbox, s.partitions, s.persist, s.joiner, s.divisible = true, true, true, 3, true, true, true
			}),
			faults: []fault{
				killLink, killLink, killAllLinks, killCommands, killWriter, killAny, freezeWriter, deleteLease, twoWriters, scriptFlush,
				joiner, restarted, lifeChanged,
			},
			beside: []fault{
				clockPromoted, clockKilled, clockFrozen, clockFrozenShort, clockRestarted, slotMoved, slotMovedHalf,
				clockApart, halvesApart,
			},
			mixed: 80 * time.Second,
		},
		{
			// What is a fault of one server here hits all partitions at once.
			name: "partitions-server",
			setup: with(func(s *setup) {
				s.instances, s.sharded, s.inbox, s.persist, s.joiner, s.partitions = 3, true, true, true, true, 4
			}),
			faults: []fault{
				killLink, killAllLinks, freezeWriter, killCommands, twoWriters, deleteLease, rollingRestart, joiner, pauseShort, scriptFlush,
				memoryFull, freezeLong, crashKept, killAny, pauseLong, clockBack, restartKept,
			},
			rounds: 1,
		},
		{
			// The last fault keeps what the finale sends.
			name: "retention",
			setup: with(func(s *setup) {
				s.ttl, s.bent, s.historyMax, s.ring = 2*time.Second, true, 100, "256KiB"
			}),
			faults: []fault{
				killWriter, ttlLonger, clockAhead, ttlShorter, streamsTrimmed, writesRefused, evictLRU, fewerKept, killAllLinks,
				evictVolatile, moreKept, clockAhead, gapsDeleted, evictAny, killWriter, ttlLonger, streamsTrimmed,
			},
			rounds: 1,
		},
		{
			name: "partitions-retention",
			setup: with(func(s *setup) {
				s.ttl, s.bent, s.historyMax, s.ring, s.sharded, s.partitions = 2*time.Second, true, 100, "256KiB", true, 3
			}),
			faults: []fault{
				killWriter, ttlLonger, clockAhead, ttlShorter, streamsTrimmed, writesRefused, evictLRU, fewerKept, killAllLinks,
				evictVolatile, moreKept, clockAhead, gapsDeleted, evictAny, killWriter, ttlLonger, streamsTrimmed,
			},
			rounds: 1,
		},
		{
			name:   "hostile",
			setup:  with(func(s *setup) { s.ring = "8MiB" }),
			faults: []fault{largeHistories, abandonedResumes, neverReading, resetting, halfHeads, freshNames},
			rounds: 2,
		},
		{
			name:  "upgrade",
			setup: with(func(s *setup) { s.old, s.inbox, s.persist = true, true, true }),
			faults: []fault{
				killWriter, upgradeHalf, killWriter, killLink, freezeWriter, killAllLinks, upgradeRest, killWriter,
				downgradeHalf, killWriter, killLink, killAllLinks, downgradeRest, killWriter, upgradeHalf, upgradeRest,
			},
			rounds: 1,
		},
		{
			name:  "mixed",
			setup: with(func(s *setup) { s.proxied, s.persist, s.joiner = true, true, true }),
			faults: []fault{
				killLink, killLink, killCommands, resetPeer, latency, blackHole, killWriter, killAny, freezeWriter,
				deleteLease, twoWriters, scriptFlush, joiner, memoryFull, pauseShort, restartKept, crashKept, killAllLinks, flushAll,
			},
			mixed: 60 * time.Second,
		},
		{
			// A link that dies while its instance is frozen leaves a stretch that the
			// smallest ring cannot take back; that is told, and is the other scenarios'.
			name:  "mixed-redis-up",
			setup: with(func(s *setup) { s.joiner, s.ring = true, "8MiB" }),
			faults: []fault{
				killLink, killLink, killCommands, killWriter, killAny, freezeWriter, deleteLease, twoWriters, scriptFlush, joiner,
			},
			mixed: 30 * time.Second,
		},
		{
			name:   "short",
			setup:  with(func(s *setup) { s.joiner = true }),
			faults: []fault{killLink, killWriter, twoWriters, killCommands, freezeWriter, joiner, pauseShort, flushAll},
			rounds: 1,
		},
	}
}

// chosen returns the scenarios by name; none are all but the short one, which
// repeats what the others do.
func chosen(names []string) (list []scenario) {
	for _, s := range scenarios() {
		if slices.Contains(names, s.name) || len(names) == 0 && s.name != "short" {
			list = append(list, s)
		}
	}
	return list
}
