package doctor

import (
	"context"
	"fmt"
	"strings"
)

// infoFields are what ssed reads in INFO, and what goes wrong without them.
var infoFields = []struct{ name, without string }{
	{"run_id", ""}, // nothing works
	{"master_replid2", "a server that was demoted and promoted again in between is not noticed"},
	{"evicted_keys", "evicted histories are not noticed: clients who come back may miss messages without being told"},
	{"maxmemory_policy", "a new primary that evicts is not noticed"},
}

// service names what a service has taken out of Redis, and what that means for ssed.
func (d *redisDoctor) service(ctx context.Context) {
	const check = "redis service"
	if d.info == nil {
		return // INFO itself is refused, which was told
	}
	var lacks []string
	status, fix := Skip, ""
	for _, f := range infoFields {
		if _, ok := d.info[f.name]; ok {
			continue
		}
		if f.without == "" {
			d.fail(check, "INFO has no "+f.name+": ssed does not work with it", "a service that is Redis or Valkey itself")
			return
		}
		status = Warn
		lacks = append(lacks, fmt.Sprintf("INFO has no %s: %s", f.name, f.without))
	}
	for _, c := range []struct {
		args    []string
		without string
	}{
		{[]string{"CONFIG", "GET", "maxmemory"}, "limits of subscribers, keyspace events and min-replicas-to-write are not checked here"},
		{[]string{"CLIENT", "ID"}, "ssed does without"},
	} {
		if err := d.client.Do(ctx, d.client.B().Arbitrary(c.args...).Build()).Error(); err != nil {
			lacks = append(lacks, fmt.Sprintf("%s is refused: %s", c.args[0], c.without))
		}
	}
	if d.isCluster() {
		if err := d.client.Do(ctx, d.client.B().Arbitrary("CLUSTER", "LINKS").Build()).Error(); err != nil {
			without := "the sharded feed does without"
			if !d.Sharded {
				status, fix = Fail, "--feed=sharded, and backends that SPUBLISH; or ACL SETUSER "+d.user()+" +cluster|links"
				without = "nobody can tell what is lost between nodes"
			}
			lacks = append(lacks, "CLUSTER LINKS is refused: "+without)
		}
	}
	if len(lacks) == 0 {
		d.ok(check, "the service has everything that ssed uses")
		return
	}
	d.say(check, status, strings.Join(lacks, "; "), fix)
}
