package ssed_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/redistest"
)

// TestPositionJoinsASnapshotWithTheStream: a backend changes its database and publishes the
// change. A page gets a position, then what the database has, and connects with the position:
// it gets every change that is not in what it has, whichever instance told the position and
// whichever it connects to.
func TestPositionJoinsASnapshotWithTheStream(t *testing.T) {
	f := func(t *testing.T, gateways []*ssed.Gateway, publish func(data string) error) {
		var database atomic.Int64 // what it has: the number of the last change
		var changing sync.WaitGroup
		var done atomic.Bool
		changing.Go(func() {
			for n := int64(1); !done.Load(); n++ {
				database.Store(n)
				if err := publish(strconv.FormatInt(n, 10)); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) // the load itself
			}
		})
		for range 100 {
			gateway := gateways[rand.IntN(len(gateways))]
			position, err := gateway.Place()
			require.NoError(t, err)
			snapshot := database.Load()
			c := open(gateways[rand.IntN(len(gateways))], "changes", position)
			next := int64(0)
			for next <= snapshot+3 {
				id, data := c.event()
				n, err := strconv.ParseInt(data, 10, 64)
				require.NoError(t, err, "%s: %s", id, data)
				if next == 0 {
					require.LessOrEqual(t, n, snapshot+1, "from %s", position)
				} else {
					require.Equal(t, next, n)
				}
				next = n + 1
			}
			c.close()
		}
		done.Store(true)
		changing.Wait()
	}

	t.Run("redis", func(t *testing.T) {
		server := redistest.Start(t)
		early, err := ssed.New(onRedis(t, server))
		require.NoError(t, err)
		_, err = early.Position()
		require.ErrorIs(t, err, ssed.ErrNoPosition)
		_, err = early.Place()
		require.ErrorIs(t, err, ssed.ErrNoPosition)
		early.Close()
		gateways, redis := twoOnRedis(t, server, func(*ssed.Config) {})
		f(t, gateways, func(data string) error {
			return redis.Do(context.Background(), redis.B().Publish().Channel("changes").Message(data).Build()).Error()
		})
	})
	t.Run("partitions", func(t *testing.T) {
		server := redistest.Start(t)
		b := newBackend(t, server.URL(), 3, server)
		var gateways []*ssed.Gateway
		for range 2 {
			gateway, _ := serve(t, partitioned(t, server.URL(), 3))
			awaitReady(gateway)
			gateways = append(gateways, gateway)
		}
		f(t, gateways, func(data string) error {
			return b.publish(context.Background(), []ssed.OutMessage{{Channel: "changes", Message: ssed.Message{Data: data}}})
		})
	})
	t.Run("embedded", func(t *testing.T) {
		gateway, _ := serve(t, loopback())
		f(t, []*ssed.Gateway{gateway}, func(data string) error {
			_, err := gateway.Publish(context.Background(), "changes", ssed.Message{Data: data})
			return err
		})
	})
}
