//go:build linux

package front

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/engine/internal/sock"
)

// acceptOne connects to a front that does not serve, and returns what it accepts.
func acceptOne(t *testing.T, cfg Config) (client net.Conn, conn net.Conn) {
	t.Helper()
	var conns atomic.Int64
	f, err := New(withDefaults(cfg), Host{Connections: &conns})
	require.NoError(t, err)
	t.Cleanup(f.Close)
	l := f.listeners[0]
	client, err = net.Dial("tcp", l.addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	conn, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		sock.Close(conn.(*accepted).fd)
		f.ended(&handshake{from: caller{over: notRefused}})
	})
	return client, conn
}

func TestAcceptedSocketsSendAtOnce(t *testing.T) {
	client, conn := acceptOne(t, Config{})
	noDelay, err := unix.GetsockoptInt(conn.(*accepted).fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	require.NoError(t, err)
	require.Equal(t, 1, noDelay)
	require.Equal(t, client.LocalAddr().String(), conn.RemoteAddr().String())
}

func TestAcceptedSocketsGiveUpSilentPeers(t *testing.T) {
	f := func(timeout, heartbeat time.Duration, want map[int]int) {
		t.Helper()
		_, conn := acceptOne(t, Config{PeerTimeout: timeout, Heartbeat: heartbeat})
		fd := conn.(*accepted).fd
		for option, value := range want {
			level := unix.IPPROTO_TCP
			if option == unix.SO_KEEPALIVE {
				level = unix.SOL_SOCKET
			}
			got, err := unix.GetsockoptInt(fd, level, option)
			require.NoError(t, err)
			require.Equal(t, value, got, "option %d", option)
		}
	}
	// Heartbeats are answered or not: no probes.
	f(0, 0, map[int]int{unix.TCP_USER_TIMEOUT: 60_000, unix.SO_KEEPALIVE: 0})
	f(time.Minute, time.Minute, map[int]int{unix.TCP_USER_TIMEOUT: 60_000, unix.SO_KEEPALIVE: 0})
	// No heartbeats, or too rare ones.
	f(0, -1, map[int]int{
		unix.TCP_USER_TIMEOUT: 60_000, unix.SO_KEEPALIVE: 1, unix.TCP_KEEPIDLE: 30, unix.TCP_KEEPINTVL: 10, unix.TCP_KEEPCNT: 3,
	})
	f(time.Second, 2*time.Second, map[int]int{
		unix.TCP_USER_TIMEOUT: 1000, unix.SO_KEEPALIVE: 1, unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1,
	})
	f(-1, 0, map[int]int{unix.TCP_USER_TIMEOUT: 0, unix.SO_KEEPALIVE: 0})
}

func TestUnixSocketNeverHasMoreThanItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssed.sock")
	lc := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		return tuneListener(network, raw, &Config{SocketMode: 0o600})
	}}
	ln, err := lc.Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	defer ln.Close()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
}
