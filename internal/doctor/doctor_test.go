package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run returns the results by their check, and fails when a check speaks twice.
func run(t *testing.T, cfg Config) map[string]Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	all := map[string]Result{}
	Run(ctx, cfg, func(r Result) {
		_, twice := all[r.Check]
		require.False(t, twice, "%v and %v", all[r.Check], r)
		require.NotEmpty(t, r.Text)
		all[r.Check] = r
	})
	if cfg.Redis == nil {
		require.Equal(t, Skip, all["redis"].Status)
		delete(all, "redis")
	}
	return all
}

// machine is what the kernel shows on a machine that was set up, with changes.
func machine(changes ...string) fstest.MapFS {
	files := map[string]string{
		"proc/sys/fs/file-nr":                             "4000\t0\t4194304",
		"proc/sys/net/core/somaxconn":                     "16384",
		"proc/sys/net/ipv4/tcp_max_syn_backlog":           "16384",
		"proc/sys/net/ipv4/ip_local_port_range":           "1024\t65535",
		"proc/sys/net/ipv4/tcp_mem":                       "287901\t383868\t575802",
		"proc/sys/net/netfilter/nf_conntrack_max":         "262144",
		"proc/sys/net/netfilter/nf_conntrack_count":       "10",
		"proc/sys/fs/epoll/max_user_watches":              "5491511",
		"proc/sys/vm/overcommit_memory":                   "1",
		"proc/meminfo":                                    "MemTotal:       16384000 kB\nMemAvailable:    8192000 kB\n",
		"proc/self/cgroup":                                "0::/system.slice/ssed.service\n",
		"sys/fs/cgroup/system.slice/memory.max":           "max\n",
		"sys/fs/cgroup/system.slice/memory.current":       "1\n",
		"sys/fs/cgroup/system.slice/ssed.service/cpu.max": "max 100000\n",
	}
	for i := 0; i < len(changes); i += 2 {
		files[changes[i]] = changes[i+1]
	}
	system := fstest.MapFS{}
	for name, text := range files {
		if text != "" {
			system[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return system
}

// prepared is a Config with which all is well.
func prepared(changes ...string) Config {
	return Config{
		MaxConnections: 50_000, ReservedFiles: 256, FileLimit: 262_144, Heartbeat: 15 * time.Second, PeerTimeout: time.Minute,
		RingBytes: 64 << 20, System: machine(changes...),
	}
}

func TestPreparedMachineIsFine(t *testing.T) {
	for check, r := range run(t, prepared()) {
		require.Equal(t, OK, r.Status, "%s: %s", check, r.Text)
		require.Empty(t, r.Fix)
	}
}

func TestWhatTheKernelHoldsBackIsNamedWithTheFix(t *testing.T) {
	for _, c := range []struct {
		check      string
		file, text string
		want       Status
		fix        string
	}{
		{"fs.file-max", "proc/sys/fs/file-nr", "4000\t0\t50000", Fail, "sysctl -w fs.file-max=154000"},
		{"net.core.somaxconn", "proc/sys/net/core/somaxconn", "128", Warn, "sysctl -w net.core.somaxconn=5000"},
		{"net.ipv4.tcp_max_syn_backlog", "proc/sys/net/ipv4/tcp_max_syn_backlog", "1024", Warn, "sysctl -w net.ipv4.tcp_max_syn_backlog=5000"},
		{"net.ipv4.ip_local_port_range", "proc/sys/net/ipv4/ip_local_port_range", "32768\t60999", Warn, "1024 65535"},
		{"net.ipv4.tcp_mem", "proc/sys/net/ipv4/tcp_mem", "10000 20000 40000", Warn, `sysctl -w net.ipv4.tcp_mem="50000 100000 200000"`},
		{"net.netfilter.nf_conntrack_max", "proc/sys/net/netfilter/nf_conntrack_max", "50000", Warn, "sysctl -w net.netfilter.nf_conntrack_max=100010"},
		{"fs.epoll.max_user_watches", "proc/sys/fs/epoll/max_user_watches", "40000", Fail, "sysctl -w fs.epoll.max_user_watches=100000"},
		{"net.netfilter.nf_conntrack_max", "proc/sys/net/netfilter/nf_conntrack_max", "", OK, ""},
		{"net.core.somaxconn", "proc/sys/net/core/somaxconn", "", Skip, ""},
		{"net.ipv4.tcp_mem", "proc/sys/net/ipv4/tcp_mem", "1 2", Skip, ""},
		{"net.ipv4.ip_local_port_range", "proc/sys/net/ipv4/ip_local_port_range", "x", Skip, ""},
	} {
		all := run(t, prepared(c.file, c.text))
		require.Equal(t, c.want, all[c.check].Status, "%v", all[c.check])
		require.Contains(t, all[c.check].Fix, c.fix)
		for check, r := range all {
			require.True(t, check == c.check || r.Status == OK, "%s is not about %s", r.Text, c.check)
		}
	}
}

func TestOpenFilesAreComparedWithConnections(t *testing.T) {
	f := func(connections int, limit uint64, want Status, text, fix string) {
		t.Helper()
		cfg := prepared()
		cfg.MaxConnections, cfg.FileLimit = connections, limit
		r := run(t, cfg)["open files"]
		require.Equal(t, want, r.Status)
		require.Contains(t, r.Text, text)
		require.Contains(t, r.Fix, fix)
	}
	f(0, 1024, Warn, "ssed takes 768 connections", "LimitNOFILE=262144")
	f(0, 511, Fail, "ssed takes 255 connections", "LimitNOFILE=262144")
	f(0, 300, Fail, "ssed takes 44 connections", "LimitNOFILE=262144")
	f(0, 262144, OK, "ssed takes 261888 connections", "")
	f(1000, 1255, Fail, "1000 connections need 1256", "LimitNOFILE=1256")
	f(1000, 1256, OK, "enough for 1000", "")
}

func TestNetworksThatHoldMoreThanProxiesAreNamed(t *testing.T) {
	f := func(want Status, text string, networks ...string) {
		t.Helper()
		cfg := prepared()
		for _, network := range networks {
			cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(network))
		}
		r, checked := run(t, cfg)["trusted proxies"]
		require.Equal(t, len(networks) > 0, checked)
		require.Equal(t, want, r.Status)
		require.Contains(t, r.Text, text)
	}
	f("", "")
	f(OK, "192.0.2.1/32", "192.0.2.1/32", "2001:db8::1/128", "192.0.2.0/24", "2001:db8::/64")
	f(Warn, "10.0.0.0/8", "10.0.0.0/8")
	f(Warn, "fd00::/8", "192.0.2.1/32", "fd00::/8")
}

func TestHeartbeatsThatAreTooRareAreNamed(t *testing.T) {
	f := func(heartbeat, timeout time.Duration, want Status, fix string) {
		t.Helper()
		cfg := prepared()
		cfg.Heartbeat, cfg.PeerTimeout = heartbeat, timeout
		r := run(t, cfg)["heartbeat"]
		require.Equal(t, want, r.Status)
		require.Contains(t, r.Fix, fix)
	}
	f(-1, time.Minute, Warn, "--heartbeat 15s")
	f(2*time.Minute, time.Minute, Warn, "--peer-timeout 6m0s")
	f(time.Minute, time.Minute, OK, "")
	f(2*time.Minute, -1, OK, "")
}

func TestMemoryIsComparedWithMachineAndControlGroup(t *testing.T) {
	const mib = 1 << 20
	f := func(connections int, want Status, text, fix string, changes ...string) {
		t.Helper()
		cfg := prepared(changes...)
		cfg.MaxConnections, cfg.FileLimit = connections, 1<<30
		r := run(t, cfg)["memory"]
		require.Equal(t, want, r.Status, r.Text)
		require.Contains(t, r.Text, text)
		require.Contains(t, r.Fix, fix)
	}
	bytes := func(n int64) string { return fmt.Sprint(n) }
	// 84 MiB and 5440 bytes for each; the machine has 7.8 GiB.
	f(100_000, OK, "need about 602 MiB", "")
	f(1_300_000, Warn, "leaves little", "--max-connections 1217")
	f(2_000_000, Fail, "the machine has 7.8 GiB", "--max-connections 1217")
	// The control group of a service, of the slice above it, of a container.
	group := "sys/fs/cgroup/system.slice/ssed.service/"
	f(100_000, Fail, "the control group has 462 MiB", "--max-connections", group+"memory.max", bytes(512*mib), group+"memory.current", bytes(50*mib))
	f(100_000, Fail, "the control group has 412 MiB", "--max-connections", "sys/fs/cgroup/system.slice/memory.max", bytes(512*mib), "sys/fs/cgroup/system.slice/memory.current", bytes(100*mib))
	f(100_000, Fail, "the control group has 100 MiB", "a smaller --ring-bytes", "proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", bytes(100*mib), "sys/fs/cgroup/memory.current", "0")
	f(100_000, OK, "the control group has 2.0 GiB", "", group+"memory.max", bytes(2048*mib), group+"memory.current", "0")
	f(100_000, OK, "the machine has", "", group+"memory.max", "max", group+"memory.current", "0")
	// Version 1.
	f(100_000, Fail, "the control group has 512 MiB", "", "proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/abc\n",
		"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", bytes(512*mib), "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "0")
	f(100_000, Skip, "cannot be read", "", "proc/meminfo", "")
}

func TestRealMachineIsRead(t *testing.T) {
	all := run(t, Config{MaxConnections: 100, Heartbeat: 15 * time.Second, RingBytes: 1 << 20})
	for _, check := range []string{"open files", "fs.file-max", "net.core.somaxconn", "net.ipv4.tcp_mem", "fs.epoll.max_user_watches", "memory"} {
		require.NotEqual(t, Skip, all[check].Status, "%v", all[check])
		require.False(t, strings.Contains(all[check].Text, "%!"), all[check].Text)
	}
}
