package fleet

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// refused waits until an instance has ended with an error.
func (w *town) refused(in *instance) error {
	w.t.Helper()
	select {
	case <-in.done:
	case <-time.After(patience):
		require.FailNow(w.t, "it goes on", in.name)
	}
	return in.err
}

func with(settings ...Setting) func(*Config) {
	return func(c *Config) { c.Settings = settings }
}

// TestSecondProcessOfANameIsRefused, and the first is not disturbed.
func TestSecondProcessOfANameIsRefused(t *testing.T) {
	w := newTown(t)
	first := w.run("a", 1, nil)
	w.sees(first, "a")
	second := w.run("a", 2, nil)
	err := w.refused(second)
	require.ErrorIs(t, err, ErrInstanceTaken)
	require.ErrorContains(t, err, `"a" belongs to process `)
	w.sees(first, "a")
	require.Zero(t, first.Stats().BeatErrors)
	owner, _ := w.redis.Do("GET", "{sse:stream:}:owner:a")
	require.Contains(t, owner, first.process)
}

// A process was frozen, and another one of its name began meanwhile. It awakes and ends:
// it must not take the other one off the list.
func TestProcessWhoseNameIsTakenLeavesTheListAsItIs(t *testing.T) {
	w := newTown(t)
	frozen := w.run("a", 1, nil)
	w.sees(frozen, "a")
	w.redis.Do("SET", "{sse:stream:}:owner:a", "other 1 {}", "PX", "60000")
	w.redis.Do("SET", "{sse:stream:}:instance:a", "1 report", "PX", "60000")
	require.Eventually(t, func() bool { return frozen.Stats().BeatErrors > 0 }, patience, time.Millisecond)
	frozen.stop()
	owner, _ := w.redis.Do("GET", "{sse:stream:}:owner:a")
	require.Equal(t, "other 1 {}", owner)
}

// TestProcessOfAnEarlierVersionKeepsItsName: it has no owner key.
func TestProcessOfAnEarlierVersionKeepsItsName(t *testing.T) {
	w := newTown(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // as that version does
		defer close(done)
		for ctx.Err() == nil {
			now := time.Now().UnixMilli()
			w.redis.Do("SET", "{sse:stream:}:instance:a", millis(time.Duration(now)*time.Millisecond)+" report", "PX", "6000")
			<-time.After(50 * time.Millisecond)
		}
	}()
	require.Eventually(t, func() bool { v, _ := w.redis.Do("GET", "{sse:stream:}:instance:a"); return v != nil }, patience, time.Millisecond)
	err := w.refused(w.run("a", 0, nil))
	require.ErrorIs(t, err, ErrInstanceTaken)
	require.ErrorContains(t, err, "earlier version")
	cancel()
	<-done
}

// TestNameOfACrashedProcessIsTakenOver when its key has expired.
func TestNameOfACrashedProcessIsTakenOver(t *testing.T) {
	w := newTown(t)
	w.redis.Do("SET", "{sse:stream:}:owner:a", "gone 1 {}", "PX", "500")
	w.redis.Do("SET", "{sse:stream:}:instance:a", "1 report", "PX", "500")
	a := w.run("a", 0, nil)
	w.sees(a, "a")
	a.stop()
	require.NoError(t, a.err)
}

// TestSettingThatHarmsIsRefusedWithBothValues: who comes later has to go.
func TestSettingThatHarmsIsRefusedWithBothValues(t *testing.T) {
	w := newTown(t)
	limit := func(value string) func(*Config) {
		return with(Setting{"limit", value, true}, Setting{"length", value, false})
	}
	first := w.run("a", 0, limit("10"))
	w.sees(first, "a")
	err := w.refused(w.run("b", 0, limit("20")))
	require.ErrorIs(t, err, ErrSettings)
	require.ErrorContains(t, err, "limit is 20 here and 10 on a")
	w.sees(first, "a")
	w.sees(w.run("c", 0, limit("10")), "a", "c")
}

// TestRefusedInstanceLeavesNoTrace: the others never count it, nor share their work with it.
func TestRefusedInstanceLeavesNoTrace(t *testing.T) {
	w := newTown(t)
	first := w.run("a", 0, with(Setting{Partitions, "3", true}))
	w.sees(first, "a")
	before, _ := w.redis.Do("KEYS", "*")
	b := w.run("b", 0, with(Setting{Partitions, "2", true}))
	require.ErrorContains(t, w.refused(b), "partitions is 2 here and 3 on a")
	require.False(t, b.IsCleared())
	after, _ := w.redis.Do("KEYS", "*")
	require.ElementsMatch(t, before, after)
	beats := first.Stats().Beats
	require.Eventually(t, func() bool { return first.Stats().Beats > beats+1 }, patience, time.Millisecond)
	require.Zero(t, first.Others())
	// A version without that setting has one.
	first.stop()
	w.redis.Do("SET", "{sse:stream:}:owner:old", `p 1 {"host":"h","pid":1,"settings":{"inbox":""}}`)
	w.redis.Do("ZADD", "{sse:stream:}:instances", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), "old")
	require.ErrorContains(t, w.refused(w.run("c", 0, with(Setting{Partitions, "2", true}))), "partitions is 2 here and 1 on old")
	one := w.run("d", 0, with(Setting{Partitions, "1", true}))
	<-one.Cleared()
}

// TestInstanceBeginsWhenItKnowsTheOthers, or cannot know them.
func TestInstanceBeginsWhenItKnowsTheOthers(t *testing.T) {
	w := newTown(t)
	w.redis.Kill()
	a := w.run("a", 0, nil)
	require.Eventually(t, func() bool { return a.Stats().BeatErrors > 3*looksPerInterval }, patience, time.Millisecond)
	require.False(t, a.IsCleared(), "what it needs is away, too")
	require.NoError(t, w.redis.Restart())
	<-a.Cleared()
	a.stop()

	// A server that takes no writes has no ticks either, however long that lasts.
	w.redis.Do("REPLICAOF", "127.0.0.1", "1")
	r := w.run("r", 0, nil)
	require.Eventually(t, func() bool { return r.Stats().BeatErrors > 5*looksPerInterval }, patience, time.Millisecond)
	require.False(t, r.IsCleared(), "it answers, and what the feed needs is away all the same")
	w.redis.Do("REPLICAOF", "NO", "ONE")
	<-r.Cleared()
	r.stop()

	// The name belongs to a process that may have crashed, and has other settings.
	w.redis.Do("SET", "{sse:stream:}:owner:b", `p 1 {"host":"h","pid":1,"settings":{"partitions":"3"}}`)
	w.redis.Do("SET", "{sse:stream:}:instance:b", "1 report")
	b := w.run("b", 0, with(Setting{Partitions, "2", true}))
	require.Eventually(t, func() bool { return b.Stats().BeatErrors > 3*looksPerInterval }, patience, time.Millisecond)
	require.False(t, b.IsCleared())
	w.redis.Do("DEL", "{sse:stream:}:owner:b", "{sse:stream:}:instance:b")
	<-b.Cleared()

	w.redis.Do("SET", "{sse:stream:}:owner:c", `p 1 {"host":"h","pid":1,"settings":{"partitions":"2"}}`)
	w.redis.Do("SET", "{sse:stream:}:instance:c", "1 report")
	<-w.run("c", 0, with(Setting{Partitions, "2", true})).Cleared() // with the same it begins at once

	w.redis.Do("ACL", "SETUSER", "u", "on", ">u", "resetkeys", "~other:*", "+@all")
	d := w.run("d", 0, func(c *Config) { c.Client.Username, c.Client.Password = "u", "u" })
	<-d.Cleared()
	require.Zero(t, d.Stats().Beats)

	w.redis.Do("SET", "{sse:stream:}:instances", "of another type")
	e := w.run("e", 0, nil)
	<-e.Cleared()
	require.Zero(t, e.Stats().Beats)
}

// TestSettingThatHarmsNobodyIsCounted: one that is off on one side, and one that may differ.
func TestSettingThatHarmsNobodyIsCounted(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 0, with(Setting{"inbox", "x", true}, Setting{"length", "1", false}, Setting{"same", "1", true}, Setting{"new", "1", true}))
	w.sees(a, "a")
	b := w.run("b", 0, with(Setting{"inbox", "", true}, Setting{"length", "2", false}, Setting{"same", "1", true}))
	w.sees(b, "a", "b")
	require.Equal(t, map[string]int{"inbox": 1, "length": 1, "same": 0}, b.Stats().Mismatches)
	want := map[string]int{"inbox": 1, "length": 1, "same": 0, "new": 0}
	require.Eventually(t, func() bool { return len(a.Stats().Mismatches) > 0 && a.Stats().Mismatches["inbox"] == 1 }, patience, time.Millisecond)
	require.Equal(t, want, a.Stats().Mismatches)
	b.stop()
	require.Eventually(t, func() bool { return a.Stats().Mismatches["inbox"] == 0 }, patience, time.Millisecond)
}

// TestPrefixThatBeginsWithAnotherIsRefused: "sse:" and the channel "stream:x" make the key
// that "sse:stream:" and "x" do.
func TestPrefixThatBeginsWithAnotherIsRefused(t *testing.T) {
	prefix := func(p string) func(*Config) { return func(c *Config) { c.Prefix, c.Keep = p, time.Hour } }
	w := newTown(t)
	first := w.run("a", 0, prefix("sse:stream:"))
	w.sees(first, "a")
	for _, p := range []string{"sse:", "sse:stream:user"} {
		err := w.refused(w.run("b", 0, prefix(p)))
		require.ErrorIs(t, err, ErrNested)
		require.ErrorContains(t, err, "sse:stream:")
		require.ErrorContains(t, err, p)
	}
	b := w.run("b", 0, prefix("sse:other:"))
	w.sees(b, "b")
	// What was stored may still be there after the fleet has gone.
	first.stop()
	require.ErrorIs(t, w.refused(w.run("c", 0, prefix("sse:"))), ErrNested)
	b.stop()
	w.redis.Do("DEL", "ssed:prefixes")
	w.sees(w.run("d", 0, prefix("sse:")), "d")
}

// TestUserWithoutTheRightToAllPrefixesIsListed: users made for earlier versions have none.
func TestUserWithoutTheRightToAllPrefixesIsListed(t *testing.T) {
	w := newTown(t)
	w.redis.Do("ACL", "SETUSER", "u", "on", ">u", "resetkeys", "~sse:stream:*", "~{sse:stream:}:*", "+@all")
	as := func(c *Config) { c.Client.Username, c.Client.Password = "u", "u" }
	a := w.run("a", 0, as)
	w.sees(a, "a")
	require.Zero(t, a.Stats().BeatErrors)
	// With the key, and the commands that were enough for earlier versions.
	w.redis.Do("ACL", "SETUSER", "u", "~ssed:prefixes", "-@all", "+hello", "+ping", "+info", "+eval", "+evalsha", "+time", "+pexpire", "+hget", "+get", "+set", "+del",
		"+mget", "+hgetall", "+zadd", "+zrange", "+zrem", "+zremrangebyscore")
	b := w.run("b", 0, as)
	w.sees(b, "a", "b")
	require.Zero(t, b.Stats().BeatErrors)
	prefixes, _ := w.redis.Do("ZCARD", "ssed:prefixes")
	require.Equal(t, int64(1), prefixes)
}
