package rsub

import (
	"maps"
	"slices"

	"ssed/sseproto"
)

// Two primaries in the model. One is replaced and lives on: it has a copy of all data, its own
// clock and its own order. Instances whose connections hang on it number what is published
// there, and those whose commands go there tick there, until it is gone. What is published
// there is promised to nobody. But no other message may have its ID, and who has one of these
// IDs must not miss anything of the new primary in silence.
//
// The former primary may go on beyond the room that its successor has left it, see takeOverRoom.
// Then the history of the successor refuses what comes from there. Only clients that leave an
// instance before it has changed over may miss something: they stay. An instance that has seen
// the successor does not go back, nor has the fleet a version that leaves no room. Nor are all
// data lost before the last instance has changed over.

// split replaces the primary, which lives on.
func (w *modelWorld) split() {
	ticks := len(w.redis.orders)
	hasTicked := ticks > 0 && w.redis.orders[ticks-1].node == w.redis.primary().id
	if !hasTicked || w.hasOld() {
		return
	}
	overstay := pick(w.rng, []uint64{0, 0, modelRoom})
	if w.flushed {
		overstay = 0 // with the data the clock forgets which server gave the order
	}
	w.redis.split(w.successor(), overstay)
	for _, in := range w.instances {
		in.redis = w.redis.rival
	}
}

// reunite makes a replica of the former primary.
func (w *modelWorld) reunite() {
	r := w.redis
	if r.rival == nil {
		return
	}
	former := r.rival.primary()
	r.rival, r.nodes = nil, slices.Insert(r.nodes, 0, former)
	for _, in := range w.instances {
		in.redis = r
		for _, c := range in.conns {
			if c.node == former {
				in.cutLink(c, CauseDisconnect)
			}
		}
	}
}

// isBeyondRoom reports whether a position of the former primary lies beyond its room, where it may.
func (r *modelRedis) isBeyondRoom(id sseproto.ID) bool {
	return r.overstay > 0 && !r.isUntimed && id.Ms >= r.tookOver
}

// isSplitLong reports whether a split has to end. Its time goes on.
func (r *modelRedis) isSplitLong() bool {
	if r.rival == nil {
		return false
	}
	r.rival.now = max(r.rival.now, r.now)
	at := r.rival.t
	if r.plant == pushedClock {
		at = r.rival.now
	}
	return !r.isUntimed && at+3 >= r.tookOver+r.overstay
}

func (r *modelRedis) split(successor *redisNode, overstay uint64) {
	former := *r
	former.isUntimed, former.orders = false, slices.Clone(r.orders)
	former.refuses = func(batch) {}
	former.nodes, former.rival, former.offer = []*redisNode{r.primary()}, nil, nil
	former.inbox, former.notes, former.gone = nil, nil, map[int]bool{}
	former.gaps = slices.Clone(r.gaps)
	former.streams = maps.Clone(r.streams)
	for ch, s := range former.streams {
		former.streams[ch] = &stream{slices.Clone(s.entries), s.expires}
	}
	r.failover(successor)
	r.nodes = r.nodes[len(r.nodes)-1:] // nothing is replicated to the former one
	r.rival, r.isUntimed, r.overstay = &former, true, overstay
}
