package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ssed/internal/clusternodes"
	"ssed/internal/fleet"
	"ssed/internal/redisconn"
)

// partitions looks at the partitions behind the first one, which was looked at already, and
// at how all are spread over the nodes. What is well of one is not told.
func (d *redisDoctor) partitions(ctx context.Context, first string) {
	const check = "redis partitions"
	nodes := map[string][]string{first: {"0"}}
	for q := 1; q < d.Partitions; q++ {
		addr, ok := d.partition(ctx, q, nodes)
		if !ok {
			return
		}
		nodes[addr] = append(nodes[addr], strconv.Itoa(q))
	}
	if !d.isCluster() {
		d.ok(check, fmt.Sprintf("%d of them on one server, where they share its one core", d.Partitions))
		return
	}
	text, err := d.client.Do(ctx, d.client.B().ClusterNodes().Build()).ToString()
	if err != nil {
		d.skip(check, "CLUSTER NODES: "+err.Error())
		return
	}
	primaries := 0
	for _, n := range clusternodes.Parse(text) {
		if n.IsPrimary && len(n.Slots) > 0 {
			primaries++
		}
	}
	share := (d.Partitions + primaries - 1) / max(primaries, 1)
	for addr, list := range nodes {
		if len(list) > share {
			d.warn(check, fmt.Sprintf("partitions %s are all on %s, of %d primaries: it has their work alone", strings.Join(list, ", "), addr, primaries),
				"move slots to other primaries with redis-cli --cluster reshard; theirs are "+d.slotsOf(list))
			return
		}
	}
	d.ok(check, fmt.Sprintf("%d of them on %d of %d primaries", d.Partitions, len(nodes), primaries))
}

// slotsOf names the slots of partitions.
func (d *redisDoctor) slotsOf(list []string) string {
	var slots []string
	for _, text := range list {
		q, _ := strconv.Atoi(text)
		slots = append(slots, strconv.Itoa(d.Redis.keys(q).Slot))
	}
	return strings.Join(slots, ", ")
}

// partition looks at one, and returns the address of its server. Not ok: it was told why.
// What concerns a whole server is told once: of those in seen it was.
func (d *redisDoctor) partition(ctx context.Context, q int, seen map[string][]string) (addr string, ok bool) {
	keys := d.Redis.keys(q)
	lazy := redisconn.New(redisconn.Options(d.Client), keys.Slot)
	defer lazy.Close()
	where := fmt.Sprintf(" of partition %d", q)
	client, err := lazy.Get(ctx)
	if err == nil {
		err = client.Do(ctx, client.B().Ping().Build()).Error()
	}
	if err != nil {
		d.fail("redis"+where, fmt.Sprintf("no connection to the primary of slot %d: %v", keys.Slot, err), d.connectFix(err))
		return "", false
	}
	one := *d.doctor
	one.report = func(r Result) {
		if r.Status != OK {
			r.Check += where
			d.report(r)
		}
	}
	part := &redisDoctor{doctor: &one, Redis: d.Redis, at: q, keys: keys, client: client}
	if len(seen[lazy.Addr()]) == 0 {
		part.server(ctx)
	}
	part.rights(ctx)
	part.fleet(ctx)
	part.inbox(ctx)
	part.window(ctx)
	return lazy.Addr(), true
}

// otherPartitions looks for instances on the prefix with another number of them. Their
// clocks are others, so it is their presence that tells. With one partition only such are told.
func (d *redisDoctor) otherPartitions(ctx context.Context) {
	const check = "fleet partitions"
	ours := max(d.Partitions, 1)
	if ours == 1 {
		report := d.report
		defer func() { d.report = report }()
		d.report = func(r Result) {
			if r.Status == Fail {
				report(r)
			}
		}
	}
	keys := redisconn.KeysOf(d.Client, d.Prefix, redisconn.Partition{})
	lazy := redisconn.New(redisconn.Options(d.Client), keys.Slot)
	defer lazy.Close()
	client, err := lazy.Get(ctx)
	if err != nil {
		d.skip(check, err.Error())
		return
	}
	names, err := client.Do(ctx, client.B().Zrange().Key(keys.Instances).Min("0").Max("999").Build()).AsStrSlice()
	if err != nil {
		d.skip(check, err.Error())
		return
	}
	slices.Sort(names)
	for _, name := range names {
		owner, err := client.Do(ctx, client.B().Get().Key(keys.Owner(name)).Build()).ToString()
		if err != nil {
			continue // it has gone
		}
		theirs, ok := fleet.SettingsOf(owner)[fleet.Partitions]
		if ok && theirs != strconv.Itoa(ours) {
			d.fail(check, fmt.Sprintf("%s runs on %s with --partitions %s, ours is %d", name, d.Prefix, theirs, ours), "the same --partitions, or another --stream-prefix")
			return
		}
	}
	d.ok(check, fmt.Sprintf("%d instances run on %s, none with another number", len(names), d.Prefix))
}
