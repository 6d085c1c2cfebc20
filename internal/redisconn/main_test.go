package redisconn

import (
	"context"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/redistest"
)

func TestMain(m *testing.M) {
	// It closes connections to nodes that left a cluster, 5 s later.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

// connect returns a client of the server, as this user.
func connect(t *testing.T, s *redistest.Server, user string) rueidis.Client {
	option := Options(rueidis.ClientOption{InitAddress: []string{s.Addr()}, Username: user, Password: user})
	c, err := rueidis.NewClient(option)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func do(t *testing.T, c rueidis.Client, args ...string) {
	t.Helper()
	require.NoError(t, c.Do(context.Background(), c.B().Arbitrary(args...).Build()).Error())
}
