package fleet

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// keeper is what an instance does with orders and revoked bearers.
type keeper struct {
	mu     sync.Mutex
	orders []string                 // guarded by mu
	out    map[string]time.Duration // guarded by mu: how long for, as told last
	told   int                      // guarded by mu
	fails  int                      // guarded by mu: how often still
}

func (k *keeper) config(cfg *Config) {
	cfg.Close = func(_ context.Context, order []byte) (int64, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.orders = append(k.orders, string(order))
		return int64(len(k.orders)), nil
	}
	cfg.Revoked = func(_ context.Context, bearer string, left time.Duration) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.fails > 0 {
			k.fails--
			return context.DeadlineExceeded
		}
		if k.out == nil {
			k.out = make(map[string]time.Duration)
		}
		k.out[bearer] = left
		k.told++
		return nil
	}
}

// Whose streams could not be closed in time is met again, and nobody else.
func TestWhoCouldNotBePutOutIsMetAgain(t *testing.T) {
	w := newTown(t)
	var k keeper
	k.fails = 2
	a := w.run("a", 0, k.config)
	w.sees(a, "a")
	require.NoError(t, a.Revoke(t.Context(), "sub:anna", time.Hour))
	require.Eventually(t, func() bool { return k.knows("sub:anna") > 0 }, patience, time.Millisecond)
	require.NoError(t, a.Revoke(t.Context(), "sub:bert", time.Hour))
	require.Eventually(t, func() bool { return k.knows("sub:bert") > 0 }, patience, time.Millisecond)
	k.mu.Lock()
	defer k.mu.Unlock()
	require.Equal(t, 2, k.told)
}

func (k *keeper) followed() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string{}, k.orders...)
}

func (k *keeper) knows(bearer string) (left time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out[bearer]
}

func TestAllInstancesFollowAnOrderOnce(t *testing.T) {
	w := newTown(t)
	var ka, kb, kc keeper
	a := w.run("a", 0, ka.config)
	w.run("b", 0, kb.config)
	w.run("c", 0, kc.config)
	w.sees(a, "a", "b", "c")
	want := Spread{Asked: 3}
	for n := range int64(3) {
		want.Shares = []Share{{"a", n + 1}, {"b", n + 1}, {"c", n + 1}}
		got, err := a.Close(t.Context(), []byte(fmt.Sprintf("order %d\n", n)))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, k := range []*keeper{&ka, &kb, &kc} {
		require.Equal(t, []string{"order 0\n", "order 1\n", "order 2\n"}, k.followed())
	}
}

// An order is followed even when whoever gave it has given up.
func TestOldOrdersAreFollowed(t *testing.T) {
	w := newTown(t)
	var k keeper
	a := w.run("a", 0, k.config)
	w.sees(a, "a")
	a.closes.questions <- question{"0123456789abcdef", "78", time.Now().Add(-time.Hour)}
	require.Eventually(t, func() bool { return len(k.followed()) == 1 }, patience, 5*time.Millisecond)
}

// Instances that missed the order, or begin later, learn who is kept out.
func TestOrdersToKeepSomebodyOutReachAllInstances(t *testing.T) {
	w := newTown(t)
	var ka, kb, kc keeper
	a, b := w.run("a", 0, ka.config), w.run("b", 0, kb.config)
	b.deaf.Store(true)
	w.sees(a, "a", "b")
	require.NoError(t, a.Revoke(t.Context(), "sub:anna", time.Hour))
	require.NoError(t, a.Revoke(t.Context(), "jti:9f3a", time.Minute))
	require.NoError(t, a.Revoke(t.Context(), "sub:anna", time.Second)) // no shorter
	w.run("c", 0, kc.config)
	for _, k := range []*keeper{&ka, &kb, &kc} {
		require.Eventually(t, func() bool {
			return k.knows("sub:anna") > 59*time.Minute && k.knows("jti:9f3a") > 0
		}, patience, 5*time.Millisecond)
		require.LessOrEqual(t, k.knows("sub:anna"), time.Hour)
		require.LessOrEqual(t, k.knows("jti:9f3a"), time.Minute)
	}
	// What is known is not told again.
	told := func() int {
		kb.mu.Lock()
		defer kb.mu.Unlock()
		return kb.told
	}
	before, beats := told(), b.Stats().Beats
	require.NoError(t, a.Revoke(t.Context(), "sub:bert", time.Hour))
	require.Eventually(t, func() bool { return kb.knows("sub:bert") > 0 && b.Stats().Beats > beats+2 }, patience, 5*time.Millisecond)
	require.Equal(t, before+1, told())
	ttl, err := w.redis.Do("PTTL", "{sse:stream:}:revoked")
	require.NoError(t, err)
	require.LessOrEqual(t, ttl, int64(time.Hour/time.Millisecond))
	require.Positive(t, ttl)
}

func TestOnlySoManyAreKeptOut(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 0, nil)
	w.sees(a, "a")
	run := func(bearer string, ms, most string) error {
		client, err := a.current()
		require.NoError(t, err)
		return revokeScript.Run(t.Context(), client, []string{"{t}:revoked"}, []string{bearer, ms, most}).Error()
	}
	f := func(bearer, ms string, ok bool) {
		t.Helper()
		err := run(bearer, ms, "2")
		require.Equal(t, !ok, err != nil && err.Error() != "redis nil message", "%v", err)
	}
	f("sub:a", "3600000", true)
	f("sub:b", "1", true)
	require.Eventually(t, func() bool { // b's time is over
		_ = run("sub:c", "3600000", "2")
		ok, err := w.redis.Do("HEXISTS", "{t}:revoked", "sub:c")
		return err == nil && ok == int64(1)
	}, patience, 5*time.Millisecond)
	f("sub:d", "3600000", false)
	f("sub:a", "7200000", true)
	fields, err := w.redis.Do("HLEN", "{t}:revoked")
	require.NoError(t, err)
	require.EqualValues(t, 3, fields, "two and the version")
}

func TestRevokeWorksWithMemoryFull(t *testing.T) {
	w := newTown(t)
	var k keeper
	a := w.run("a", 0, k.config)
	w.sees(a, "a")
	_, err := w.redis.Do("CONFIG", "SET", "maxmemory", "1")
	require.NoError(t, err)
	require.NoError(t, a.Revoke(t.Context(), "sub:anna", time.Hour))
	require.Eventually(t, func() bool { return k.knows("sub:anna") > 0 }, patience, 5*time.Millisecond)
}
