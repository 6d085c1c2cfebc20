package rsub

import (
	"maps"
	"slices"
)

// Two primaries in the model. One is replaced and lives on: it has a copy of all data, its own
// clock and its own order. Instances whose connections hang on it number what is published
// there, and those whose commands go there tick there, until it is gone. What is published
// there is promised to nobody. But no other message may have its ID, and who has one of these
// IDs must not miss anything of the new primary in silence.
//
// The former primary is gone before its clock has used up the room that its successor has left
// it: see takeOverRoom. An instance that has seen the successor does not go back, nor has the
// fleet a version that leaves no room.

// split replaces the primary, which lives on.
func (w *modelWorld) split() {
	ticks := len(w.redis.orders)
	hasTicked := ticks > 0 && w.redis.orders[ticks-1].node == w.redis.primary().id
	if !hasTicked || slices.ContainsFunc(w.instances, func(in *modelInstance) bool { return in.kind.old }) {
		return
	}
	w.redis.split()
	for _, in := range w.instances {
		in.redis = w.redis.rival
	}
}

// reunite ends the former primary.
func (w *modelWorld) reunite() {
	r := w.redis
	if r.rival == nil {
		return
	}
	former := r.rival.primary()
	r.rival = nil
	for _, in := range w.instances {
		in.redis = r
		for _, c := range in.conns {
			if c.node == former {
				in.cutLink(c, CauseDisconnect)
			}
		}
	}
}

// isSplitLong reports whether a split has to end before its room is used up. Its time goes on.
func (r *modelRedis) isSplitLong() bool {
	if r.rival == nil {
		return false
	}
	r.rival.now = max(r.rival.now, r.now)
	at := r.rival.t
	if r.plant != "" { // it may be pushed
		at = r.rival.now
	}
	return !r.isUntimed && at+3 >= r.tookOver
}

func (r *modelRedis) split() {
	former := *r
	former.isUntimed, former.orders = false, slices.Clone(r.orders)
	former.nodes, former.rival, former.offer = []*redisNode{r.primary()}, nil, nil
	former.inbox, former.notes, former.gone = nil, nil, map[int]bool{}
	former.gaps = slices.Clone(r.gaps)
	former.streams = maps.Clone(r.streams)
	for ch, s := range former.streams {
		former.streams[ch] = &stream{slices.Clone(s.entries), s.expires}
	}
	r.failover()
	r.nodes = r.nodes[len(r.nodes)-1:] // nothing is replicated to the former one
	r.rival, r.isUntimed = &former, true
}
