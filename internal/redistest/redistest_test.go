package redistest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(t *testing.T, s *Server, args ...string) any {
	t.Helper()
	reply, err := s.Do(args...)
	require.NoError(t, err)
	return reply
}

func TestServerAnswersWithEveryKindOfReply(t *testing.T) {
	s := Start(t)
	require.Equal(t, "redis://"+s.Addr(), s.URL())
	require.Equal(t, "OK", do(t, s, "SET", "k", "a\r\nb"))
	require.Equal(t, "a\r\nb", do(t, s, "GET", "k"))
	require.Nil(t, do(t, s, "GET", "absent"))
	require.Equal(t, int64(2), do(t, s, "RPUSH", "l", "x", "y"))
	require.Equal(t, []any{"x", "y"}, do(t, s, "LRANGE", "l", "0", "-1"))
	_, err := s.Do("INCR", "k")
	var e Error
	require.True(t, errors.As(err, &e), "%v", err)
}

func TestRestartKeepsThePortAndOnlyPersistedData(t *testing.T) {
	for _, kept := range []bool{false, true} {
		var args []string
		var want any
		if kept {
			args, want = []string{"--appendonly", "yes"}, "v"
		}
		s := Start(t, args...)
		addr, pid := s.Addr(), s.Pid()
		do(t, s, "SET", "k", "v")
		require.NoError(t, s.Restart())
		require.Equal(t, addr, s.Addr())
		require.NotEqual(t, pid, s.Pid())
		require.Equal(t, want, do(t, s, "GET", "k"), "appendonly %v", kept)
	}
}

func TestStoppedServerRefusesAndCanStartAgain(t *testing.T) {
	s := Start(t)
	s.Stop()
	require.Zero(t, s.Pid())
	_, err := s.Do("PING")
	require.Error(t, err)
	require.Error(t, s.Pause())
	s.Stop() // once more does nothing
	require.NoError(t, s.Restart())
	require.Equal(t, "PONG", do(t, s, "PING"))
}

func TestPausedServerResumesOrDies(t *testing.T) {
	s := Start(t)
	require.NoError(t, s.Pause())
	require.NoError(t, s.Resume())
	require.Equal(t, "PONG", do(t, s, "PING"))
	require.NoError(t, s.Pause())
	s.Stop()
	require.Zero(t, s.Pid())
}

func TestReplicaFollows(t *testing.T) {
	primary := Start(t)
	replica := Start(t, "--replicaof", strings.Replace(primary.Addr(), ":", " ", 1))
	require.Equal(t, "slave", do(t, replica, "ROLE").([]any)[0])
}

func TestPortOfAnotherServerIsNotTakenForItsOwn(t *testing.T) {
	other := Start(t)
	_, err := Run(t.TempDir(), other.port)
	require.ErrorContains(t, err, "ended at start")
	require.Equal(t, "PONG", do(t, other, "PING"))
}

func TestRunNamesWhatIsWrong(t *testing.T) {
	_, err := Run(t.TempDir(), 0, "--no-such-option", "1")
	require.ErrorContains(t, err, "no-such-option")
	t.Setenv("REDIS_SERVER", "no-such-server")
	_, err = Run(t.TempDir(), 0)
	require.ErrorIs(t, err, ErrNotInstalled)
}

func TestClusterServesAndFailsOver(t *testing.T) {
	c := StartCluster(t, 3, 1)
	require.Len(t, c.Nodes, 6)
	for slot, want := range map[int]*Server{0: c.Nodes[0], 8192: c.Nodes[1], slots - 1: c.Nodes[2]} {
		s, err := c.AwaitPrimary(slot)
		require.NoError(t, err)
		require.Equal(t, want.Addr(), s.Addr())
	}
	old := c.Nodes[1]
	require.Equal(t, c.Nodes[4], c.ReplicaOf(old))
	old.Kill()
	require.NoError(t, c.await(func() error {
		if s, err := c.Primary(8192); err != nil || s != c.Nodes[4] {
			return errors.New("no failover")
		}
		return nil
	}))
	require.NoError(t, old.Restart())
	require.NoError(t, c.AwaitHealth())
	require.Equal(t, "slave", do(t, old, "ROLE").([]any)[0])
}

func TestClusterMovesASlot(t *testing.T) {
	c := StartCluster(t, 2, 0)
	from, err := c.AwaitPrimary(100)
	require.NoError(t, err)
	key := ""
	for i := range 100000 {
		if key = fmt.Sprint("k", i); do(t, from, "CLUSTER", "KEYSLOT", key) == int64(100) {
			break
		}
	}
	for i := range 15 {
		do(t, from, "SET", fmt.Sprintf("{%s}%d", key, i), "v")
	}
	halfway := false
	require.NoError(t, c.Move(100, c.Nodes[1], func() {
		halfway = true
		_, err := from.Do("GET", "{"+key+"}none")
		require.ErrorContains(t, err, "ASK")
	}))
	require.True(t, halfway)
	require.Equal(t, int64(15), do(t, c.Nodes[1], "DBSIZE"))
	_, err = from.Do("GET", "{"+key+"}1")
	require.ErrorContains(t, err, "MOVED")
}

func TestFreePortsAreGivenOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 1000 {
		port, err := FreePort()
		require.NoError(t, err)
		require.False(t, seen[port], port)
		seen[port] = true
	}
}
