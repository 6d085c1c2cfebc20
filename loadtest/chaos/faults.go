//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// fault is one kind of damage.
type fault struct {
	name  string
	about string
	// lossless: Redis stays up and keeps its data, and at least one instance stays
	// linked. Then no client may even be told of a loss.
	lossless bool
	// inject does the damage, and returns when it is over.
	inject func(ctx context.Context, d *damage) error
}

// damage is one fault at work.
type damage struct {
	*cluster
	partition int            // the one whose node, slot, writer or link is hit
	keys      redisconn.Keys // of that
	rng       *rand.Rand
	clock     clock

	hit      []int         // instances that were hit
	answered time.Duration // when Redis answered again; 0: it always did
	note     string        // for the reader
}

// newDamage picks the partition.
func newDamage(c *cluster, rng *rand.Rand, clock clock) *damage {
	d := &damage{cluster: c, rng: rng, clock: clock}
	if len(c.parts) > 1 {
		d.partition = rng.IntN(len(c.parts))
	}
	d.keys = c.parts[d.partition]
	return d
}

// These are about the partition that is hit.

func (d *damage) primary() *redistest.Server { return d.cluster.primary(d.partition) }

func (d *damage) do(args ...string) (any, error) { return d.cluster.do(d.partition, args...) }

func (d *damage) text(args ...string) string { return d.cluster.text(d.partition, args...) }

func (d *damage) writer() *instance { return d.cluster.writer(d.partition, d.rng) }

// everywhere sends a command to the servers of all partitions, each once.
func (d *damage) everywhere(args ...string) error {
	var errs []error
	asked := map[*redistest.Server]bool{}
	for q := range d.parts {
		s := d.cluster.primary(q)
		if !asked[s] {
			asked[s] = true
			_, err := s.Do(args...)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *damage) hits(in *instance) *instance {
	d.hit = append(d.hit, in.index)
	return in
}

// wait is the length of a fault, not a synchronisation.
func (d *damage) wait(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

// Faults between instances and Redis.
var (
	killLink = fault{
		"link of one instance killed", "`CLIENT KILL` of the Pub/Sub connection of one instance", true,
		func(_ context.Context, d *damage) error { return d.killClients("pubsub", d.hits(d.any(d.rng))) },
	}
	killOneFeed = fault{
		"one of two feeds killed", "`CLIENT KILL` of one Pub/Sub connection of an instance with `--redis-feeds 2`", true,
		func(_ context.Context, d *damage) error {
			ids := d.clientIDs("pubsub", d.hits(d.any(d.rng)))
			if len(ids) == 0 {
				return errors.New("chaos: no feed to kill")
			}
			_, err := d.do("CLIENT", "KILL", "ID", ids[d.rng.IntN(len(ids))])
			return err
		},
	}
	killAllLinks = fault{
		"links of all instances killed", "`CLIENT KILL TYPE pubsub`: for a moment nobody is subscribed", false,
		func(_ context.Context, d *damage) error {
			for _, in := range d.fleet.running() {
				d.hits(in)
			}
			return d.everywhere("CLIENT", "KILL", "TYPE", "pubsub")
		},
	}
	killCommands = fault{
		"command connections killed", "`CLIENT KILL` of the connections that write and read the history, on all instances", true,
		func(_ context.Context, d *damage) error {
			for _, in := range d.fleet.running() {
				if err := d.killClients("normal", in); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cutReader = fault{
		"output buffer of a subscriber overrun", "an instance is frozen while 19 MB come, with `client-output-buffer-limit pubsub 256kb`: Redis cuts it off", true,
		overrunOutput,
	}
	resetPeer = fault{
		"TCP resets", "the connections of one instance to Redis are reset again and again for 1 s", true,
		func(ctx context.Context, d *damage) error {
			return d.toxic(ctx, time.Second, `{"type":"reset_peer","attributes":{"timeout":20}}`)
		},
	}
	latency = fault{
		"latency", "100 ± 50 ms each way between one instance and Redis for 3 s", true,
		func(ctx context.Context, d *damage) error {
			return d.toxic(ctx, 3*time.Second, `{"type":"latency","attributes":{"latency":100,"jitter":50}}`)
		},
	}
	blackHole = fault{
		"silent network", "nothing goes through between one instance and Redis for 4 s, and nothing is closed", true,
		func(ctx context.Context, d *damage) error {
			return d.toxic(ctx, 4*time.Second, `{"type":"timeout","attributes":{"timeout":0}}`)
		},
	}
)

// Faults of instances and of what they share in Redis.
var (
	killWriter = fault{
		"kill -9 of the writer", "the instance that writes the history is killed, and started again 2 s later", true,
		func(ctx context.Context, d *damage) error { return d.crash(ctx, d.hits(d.writer())) },
	}
	killAny = fault{
		"kill -9 of an instance", "any instance is killed, and started again 2 s later", true,
		func(ctx context.Context, d *damage) error { return d.crash(ctx, d.hits(d.any(d.rng))) },
	}
	freezeWriter = fault{
		"writer frozen", "`SIGSTOP` of the writer for 3 s: it wakes up without the lease", true,
		func(ctx context.Context, d *damage) error {
			in := d.hits(d.writer())
			err := in.signal(syscall.SIGSTOP)
			return errors.Join(err, d.wait(ctx, 3*time.Second), in.signal(syscall.SIGCONT))
		},
	}
	freezeLong = fault{
		"instance frozen for long", "`SIGSTOP` for 12 s: its links are cut by Redis, others have its clocks and its leases", true,
		func(ctx context.Context, d *damage) error {
			in := d.hits(d.any(d.rng))
			err := in.signal(syscall.SIGSTOP)
			return errors.Join(err, d.wait(ctx, 12*time.Second), in.signal(syscall.SIGCONT))
		},
	}
	rollingRestart = fault{
		"rolling restart", "every instance is ended with `SIGTERM` and started again, one after the other", true,
		func(ctx context.Context, d *damage) error { return d.roll(ctx) },
	}
	restarted = fault{
		"an instance restarted", "`SIGTERM`, and started again at once", true,
		func(_ context.Context, d *damage) error { return d.hits(d.any(d.rng)).restart(syscall.SIGTERM) },
	}
	clockBack = fault{
		"clock set back", "every instance in turn is restarted with a clock that is one hour slow", true,
		func(ctx context.Context, d *damage) error { return d.roll(ctx, "--test-clock-offset=-1h") },
	}
	joiner = fault{
		"a joiner", "one more instance starts, serves for 1 s and is killed", true,
		func(ctx context.Context, d *damage) error {
			in := d.hits(d.fleet.instances[len(d.fleet.instances)-1])
			if err := in.start(); err != nil {
				return err
			}
			return errors.Join(d.wait(ctx, time.Second+time.Duration(d.rng.Int64N(int64(time.Second)))), in.end(syscall.SIGKILL))
		},
	}
	deleteLease = fault{
		"lease deleted", "`DEL` of the writer's lease", true,
		func(_ context.Context, d *damage) error {
			_, err := d.do("DEL", d.keys.Lease)
			return err
		},
	}
	twoWriters = fault{
		"two writers", "for 3 s the lease goes to another instance, or to nobody, every 20 ms", true,
		func(ctx context.Context, d *damage) error {
			for range 150 {
				args := []string{"DEL", d.keys.Lease}
				if d.rng.IntN(3) > 0 {
					args = []string{"SET", d.keys.Lease, d.any(d.rng).name(), "PX", "800"}
				}
				if _, err := d.do(args...); err != nil {
					return err
				}
				if err := d.wait(ctx, 20*time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		},
	}
	scriptFlush = fault{
		"SCRIPT FLUSH", "Redis forgets the scripts", true,
		func(_ context.Context, d *damage) error { return d.everywhere("SCRIPT", "FLUSH") },
	}
)

// Faults of Redis.
var (
	pauseShort = fault{
		"Redis frozen for 1 s", "`SIGSTOP` of redis-server", false,
		func(ctx context.Context, d *damage) error { return d.freezeRedis(ctx, time.Second) },
	}
	pauseLong = fault{
		"Redis frozen for 10 s", "`SIGSTOP` of redis-server", false,
		func(ctx context.Context, d *damage) error { return d.freezeRedis(ctx, 10*time.Second) },
	}
	restartKept = fault{
		"Redis restarted, data kept", "`SIGTERM` and start, with an append-only file", false,
		func(_ context.Context, d *damage) error { return d.restartRedis(false) },
	}
	crashKept = fault{
		"Redis killed, data kept", "`kill -9` and start, with an append-only file", false,
		func(_ context.Context, d *damage) error { return d.restartRedis(true) },
	}
	restartEmpty = fault{
		"Redis restarted, data lost", "`kill -9` and start without persistence", false,
		func(_ context.Context, d *damage) error { return d.restartRedis(true) },
	}
	flushAll = fault{
		"FLUSHALL", "all keys deleted at once", false,
		func(_ context.Context, d *damage) error {
			_, err := d.do("FLUSHALL")
			return err
		},
	}
	memoryFull = fault{
		"memory full", "`maxmemory` reached with `noeviction` for 2 s: nothing can be written", true,
		func(ctx context.Context, d *damage) error {
			_, err := d.do("CONFIG", "SET", "maxmemory", "1mb")
			err = errors.Join(err, d.wait(ctx, 2*time.Second))
			_, err2 := d.do("CONFIG", "SET", "maxmemory", "0")
			return errors.Join(err, err2)
		},
	}
	wrongType = fault{
		"stream key of another type", "the key of one channel's stream holds a string for 3 s", false,
		spoilStream,
	}
)

// Faults of a primary with a replica and a sentinel.
var (
	failoverOrdered = fault{
		"failover, ordered", "`SENTINEL FAILOVER`: the replica is promoted while everybody hangs on the old primary", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			if _, err := d.askSentinel("SENTINEL", "FAILOVER", masterSet); err != nil {
				return err
			}
			return d.awaitPromotion(ctx, old)
		},
	}
	failoverFrozen = fault{
		"failover, primary wakes up", "the primary is frozen until the replica is promoted, and wakes up 1 s later as a second primary", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			err := old.Pause()
			err = errors.Join(err, d.awaitSwitch(ctx, old), d.wait(ctx, time.Second), old.Resume())
			return errors.Join(err, d.awaitPromotion(ctx, old))
		},
	}
	failoverKilled = fault{
		"failover, primary killed", "`kill -9` of the primary; it comes back as replica", false,
		func(ctx context.Context, d *damage) error {
			old := d.primary()
			old.Kill()
			err := d.awaitSwitch(ctx, old)
			return errors.Join(err, old.Restart(), d.awaitPromotion(ctx, old))
		},
	}
)

// clientIDs returns the connections of an instance to Redis of a type.
func (d *damage) clientIDs(kind string, in *instance) (ids []string) {
	for line := range strings.Lines(d.text("CLIENT", "LIST", "TYPE", kind)) {
		id, named := "", false
		for field := range strings.FieldsSeq(line) {
			if value, ok := strings.CutPrefix(field, "id="); ok {
				id = value
			}
			named = named || field == "name="+in.name()
		}
		if named {
			ids = append(ids, id)
		}
	}
	return ids
}

func (d *damage) killClients(kind string, in *instance) error {
	for _, id := range d.clientIDs(kind, in) {
		// One that is gone by itself meanwhile is an error reply.
		if _, err := d.do("CLIENT", "KILL", "ID", id); err != nil && !errors.As(err, new(redistest.Error)) {
			return err
		}
	}
	return nil
}

// downTime is long enough for others to take over what the process did.
const downTime = 2 * time.Second

func (d *damage) crash(ctx context.Context, in *instance) error {
	return errors.Join(in.end(syscall.SIGKILL), d.wait(ctx, downTime), in.start())
}

// roll restarts every instance, the next one when all are ready.
func (d *damage) roll(ctx context.Context, extra ...string) error {
	for _, in := range d.fleet.running() {
		d.hits(in)
		if err := in.restart(syscall.SIGTERM, extra...); err != nil {
			return err
		}
		if err := d.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// toxic disturbs both directions between one instance and Redis for a time.
func (d *damage) toxic(ctx context.Context, length time.Duration, toxic string) error {
	i := d.hits(d.any(d.rng)).index
	p := d.proxies[i]
	for _, stream := range []string{"upstream", "downstream"} {
		text := strings.Replace(toxic, "{", fmt.Sprintf(`{"name":%q,"stream":%q,`, stream, stream), 1)
		if _, err := p.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
			return fmt.Errorf("chaos: toxic %s: %w", toxic, err)
		}
	}
	err := d.wait(ctx, length)
	return errors.Join(err, removeToxics(ctx, p))
}

func removeToxics(ctx context.Context, p *toxiproxy.Proxy) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	p.Toxics.ResetToxics(ctx)
	return ctx.Err()
}

// Ballast of overrunOutput. The kernel holds up to 10 MB on the way to a reader
// that does not read; a message alone stays below the limit, so that readers
// that do read are not cut.
const (
	ballastMessages = 600
	ballastBytes    = 32 << 10
	ballastPause    = 5 * time.Millisecond
)

func overrunOutput(ctx context.Context, d *damage) (err error) {
	if _, err := d.do("CONFIG", "SET", "client-output-buffer-limit", "pubsub 256kb 0 0"); err != nil {
		return err
	}
	in := d.hits(d.any(d.rng))
	err = in.signal(syscall.SIGSTOP)
	payload := strings.Repeat("b", ballastBytes)
	for i := 0; i < ballastMessages && err == nil; i++ {
		_, err = d.do("PUBLISH", "chaos:ballast", payload)
		err = errors.Join(err, d.wait(ctx, ballastPause))
	}
	if left := len(d.clientIDs("pubsub", in)); err == nil && left > 0 {
		err = fmt.Errorf("chaos: the frozen subscriber was not cut: %d links", left)
	}
	err = errors.Join(err, in.signal(syscall.SIGCONT))
	_, err2 := d.do("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
	return errors.Join(err, err2)
}

func (d *damage) freezeRedis(ctx context.Context, length time.Duration) error {
	err := d.redis.Pause()
	err = errors.Join(err, d.wait(ctx, length), d.redis.Resume())
	return errors.Join(err, d.awaitAnswer())
}

func (d *damage) restartRedis(crash bool) error {
	if crash {
		d.redis.Kill()
	}
	err := d.redis.Restart() // returns at the first PONG
	return errors.Join(err, d.awaitAnswer())
}

func (d *damage) awaitAnswer() error {
	_, err := d.do("PING")
	d.answered = d.clock.now()
	return err
}

// spoilStream puts the stream aside and back, in one step each: what it holds is
// not part of the fault.
func spoilStream(ctx context.Context, d *damage) error {
	stream := d.keys.Stream(channelName(0))
	const spoil = `redis.call('RENAME', KEYS[1], KEYS[2]) redis.call('SET', KEYS[1], 'not a stream')`
	const mend = `redis.call('DEL', KEYS[1]) redis.call('RENAME', KEYS[2], KEYS[1])`
	if _, err := d.do("EVAL", spoil, "2", stream, "aside"); err != nil {
		return err
	}
	err := d.wait(ctx, 3*time.Second)
	_, err2 := d.do("EVAL", mend, "2", stream, "aside")
	return errors.Join(err, err2)
}

// awaitSwitch returns when the sentinel names another primary than old.
func (d *damage) awaitSwitch(ctx context.Context, old *redistest.Server) error {
	return poll(ctx, readyTimeout, func() error {
		if d.primary() == old {
			return errors.New("chaos: no failover")
		}
		return nil
	})
}

// awaitPromotion returns when old is a replica that has caught up.
func (d *damage) awaitPromotion(ctx context.Context, old *redistest.Server) error {
	if err := d.awaitSwitch(ctx, old); err != nil {
		return err
	}
	now := d.primary()
	if d.answered == 0 {
		d.answered = d.clock.now()
	}
	return poll(ctx, readyTimeout, func() error {
		reply, err := old.Do("INFO", "replication")
		if err != nil {
			return err
		}
		info, _ := reply.(string)
		if !strings.Contains(info, "role:slave") || !strings.Contains(info, "master_link_status:up") ||
			!strings.Contains(info, "master_port:"+d.announcedPort(now)) {
			return errors.New("chaos: the old primary does not follow the new one")
		}
		return nil
	})
}
