package doctor

import (
	"fmt"
	"strconv"
)

// longestLag is how long a primary may go on without its replicas: as long as the room that
// its successor leaves it, see takeOverRoom of rsub. In seconds, as min-replicas-max-lag.
const longestLag = 2

// livesOn looks at what ends a primary that was replaced and does not know: without its
// replicas it takes no writes, so it makes no ticks beside its successor ("Two primaries" in
// docs/GUARANTEES.md). A node of a cluster that most others do not see stops by itself.
func (d *redisDoctor) livesOn(check string, settings map[string]string) {
	least, err := strconv.Atoi(settings["min-replicas-to-write"])
	lag, err2 := strconv.Atoi(settings["min-replicas-max-lag"])
	if err != nil || err2 != nil {
		d.skip(check, "Redis does not tell")
		return
	}
	const everywhere = ", here and on each replica, and the same in their redis.conf"
	replicas := d.replicas()
	near, _ := strconv.Atoi(d.info["min_slaves_good_slaves"])
	switch isOff := least == 0 || lag == 0; {
	case isOff && replicas == 0:
		d.ok(check, "0, and no replica that could take over")
	case isOff:
		fix := fmt.Sprintf("CONFIG SET min-replicas-to-write 1 min-replicas-max-lag %d", longestLag) + everywhere
		if replicas == 1 {
			fix = "a second replica (with one alone, Redis would take no writes while that one is away), then " + fix
		}
		d.warn(check, fmt.Sprintf("off, with %d replicas: when one takes over, this server may live on and make ticks. Then clients may miss messages without a word", replicas), fix)
	case near < least:
		d.fail(check, fmt.Sprintf("%d, and %d of %d replicas answer within %d s: Redis takes no writes", least, near, replicas, lag),
			"start the replicas; without them CONFIG SET min-replicas-to-write 0")
	case lag > longestLag:
		d.warn(check, fmt.Sprintf("min-replicas-max-lag is %d: this server may make ticks for %d s after its replicas have left it, and its successor leaves it room for %d s", lag, lag, longestLag),
			fmt.Sprintf("CONFIG SET min-replicas-max-lag %d", longestLag)+everywhere)
	case replicas <= least:
		d.warn(check, fmt.Sprintf("%d, with %d replicas: while one is away, Redis takes no writes, and the history stands still", least, replicas), "one more replica")
	default:
		d.ok(check, fmt.Sprintf("%d, with %d replicas and min-replicas-max-lag %d", least, replicas, lag))
	}
}

// replicas is how many follow this server.
func (d *redisDoctor) replicas() int {
	n, _ := strconv.Atoi(d.info["connected_slaves"]) // "": INFO is refused, or of a replica
	return n
}
