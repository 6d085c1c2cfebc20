package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

const (
	// fewFiles is a limit that somebody forgot: the usual default is 1024.
	fewFiles = 4096
	// leastConnections is what a service for browsers cannot do with less.
	leastConnections = 256
)

// files compares the limit of open files with the connections, and settles how many
// connections the other checks are about.
func (d *doctor) files() {
	const check = "open files"
	fix := "LimitNOFILE=%d in the systemd unit, --ulimit nofile=%[1]d for a container, ulimit -Hn in a shell"
	hard := d.FileLimit
	if hard == 0 {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			d.skip(check, err.Error())
			return
		}
		hard = limit.Max
	}
	need := uint64(d.MaxConnections + d.ReservedFiles)
	note := " (of this shell: a service may have another one)"
	switch {
	case d.MaxConnections == 0:
		d.MaxConnections = max(int(min(hard, 1<<30))-d.ReservedFiles, 16)
		text := fmt.Sprintf("the hard limit is %d, so ssed takes %d connections%s", hard, d.MaxConnections, note)
		switch {
		case d.MaxConnections < leastConnections:
			d.fail(check, text, fmt.Sprintf(fix, 262144))
		case hard < fewFiles:
			d.warn(check, text, fmt.Sprintf(fix, 262144))
		default:
			d.ok(check, text)
		}
	case hard < need:
		d.fail(check, fmt.Sprintf("the hard limit is %d, %d connections need %d%s", hard, d.MaxConnections, need, note), fmt.Sprintf(fix, need))
	default:
		d.ok(check, fmt.Sprintf("the hard limit is %d, enough for %d connections%s", hard, d.MaxConnections, note))
	}
	d.systemFiles()
}

// systemFiles is about the sum over all processes.
func (d *doctor) systemFiles() {
	const check = "fs.file-max"
	used, _, most, ok := d.three("/proc/sys/fs/file-nr")
	if !ok {
		d.skip(check, "/proc/sys/fs/file-nr cannot be read")
		return
	}
	if free := most - used; free < int64(d.MaxConnections) {
		d.fail(check, fmt.Sprintf("%d of %d descriptors of the machine are free, connections need %d", free, most, d.MaxConnections),
			sysctl(check, used+3*int64(d.MaxConnections)))
		return
	}
	d.ok(check, fmt.Sprintf("%d of %d descriptors of the machine are in use", used, most))
}

// kernel looks at settings whose defaults are for fewer connections.
func (d *doctor) kernel() {
	d.backlog("net.core.somaxconn")
	d.backlog("net.ipv4.tcp_max_syn_backlog")
	d.ports()
	d.tcpMemory()
	d.tracking()
	d.watches()
	d.keepAlive()
}

// Bounds of what the backlogs should be: that of the kernel's own default since 5.4,
// and what deploy/sysctl.conf has.
const (
	leastBacklog = 4096
	mostBacklog  = 16384
)

// backlog: after a deploy, a tenth of the clients of an instance come in the same second
// (--drain is 10 s). Who finds no place waits one second for the next SYN.
func (d *doctor) backlog(name string) {
	want := min(max(int64(d.MaxConnections)/10, 128), mostBacklog)
	if want > 512 {
		want = max(want, leastBacklog)
	}
	have, ok := d.number(name)
	switch {
	case !ok:
		d.skip(name, "it cannot be read")
	case have < want:
		d.warn(name, fmt.Sprintf("%d: when %d clients come back at once, after a deploy, some wait for a second or more", have, want), sysctl(name, want))
	default:
		d.ok(name, strconv.FormatInt(have, 10))
	}
}

// ports counts those of a proxy on this machine.
func (d *doctor) ports() {
	const check = "net.ipv4.ip_local_port_range"
	text, _ := d.read(path(check))
	from, to, ok := strings.Cut(text, "\t")
	low, err := strconv.ParseInt(strings.TrimSpace(from), 10, 64)
	high, err2 := strconv.ParseInt(strings.TrimSpace(to), 10, 64)
	if !ok || err != nil || err2 != nil {
		d.skip(check, "it cannot be read")
		return
	}
	n := high - low + 1
	text = fmt.Sprintf("a proxy on this machine can have %d connections to one address of ssed", n)
	if n < int64(d.MaxConnections) {
		d.warn(check, text+fmt.Sprintf(", fewer than %d; it matters only if a proxy on this machine connects to ssed by TCP", d.MaxConnections),
			sysctl(check, `"1024 65535"`)+", or a unix socket, or several --listen addresses")
		return
	}
	d.ok(check, text)
}

// tcpMemory: an idle connection holds no page of it, a broadcast puts up to one into
// each socket at once.
func (d *doctor) tcpMemory() {
	const check = "net.ipv4.tcp_mem"
	_, pressure, most, ok := d.three(path(check))
	switch {
	case !ok:
		d.skip(check, "it cannot be read")
	case pressure < int64(d.MaxConnections):
		d.warn(check, fmt.Sprintf("the kernel saves memory when sockets hold %d pages, and a broadcast to %d connections takes as many pages", pressure, d.MaxConnections),
			sysctl(check, fmt.Sprintf(`"%d %d %d"`, d.MaxConnections, 2*d.MaxConnections, 4*d.MaxConnections)))
	default:
		d.ok(check, fmt.Sprintf("sockets may hold up to %d pages", most))
	}
}

// tracking: a full table of the firewall drops packets in silence.
func (d *doctor) tracking() {
	const check = "net.netfilter.nf_conntrack_max"
	most, ok := d.number(check)
	if !ok {
		d.ok(check, "connections are not tracked")
		return
	}
	used, _ := d.number("net.netfilter.nf_conntrack_count")
	if most-used < int64(d.MaxConnections) {
		d.warn(check, fmt.Sprintf("the firewall can track %d more connections, and then drops packets without a word", most-used),
			sysctl(check, used+2*int64(d.MaxConnections))+", or no tracking of ssed's port (NOTRACK)")
		return
	}
	d.ok(check, fmt.Sprintf("%d of %d in use", used, most))
}

func (d *doctor) watches() {
	const check = "fs.epoll.max_user_watches"
	most, ok := d.number(check)
	switch {
	case !ok:
		d.skip(check, "it cannot be read")
	case most < int64(d.MaxConnections):
		d.fail(check, fmt.Sprintf("%d, one is needed for each of %d connections", most, d.MaxConnections), sysctl(check, 2*int64(d.MaxConnections)))
	default:
		d.ok(check, strconv.FormatInt(most, 10))
	}
}

func (d *doctor) keepAlive() {
	const check = "heartbeat"
	switch {
	case d.Heartbeat <= 0:
		d.warn(check, "it is off: proxies and clients cut quiet streams, and dead clients are noticed late", "--heartbeat 15s")
	case d.PeerTimeout > 0 && d.Heartbeat > d.PeerTimeout:
		d.warn(check, fmt.Sprintf("%v is longer than --peer-timeout %v, so the kernel probes each silent connection, with a timer for each", d.Heartbeat, d.PeerTimeout),
			fmt.Sprintf("--peer-timeout %v", 3*d.Heartbeat))
	default:
		d.ok(check, d.Heartbeat.String())
	}
}

func path(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

func sysctl(name string, value any) string { return fmt.Sprintf("sysctl -w %s=%v", name, value) }

func (d *doctor) number(name string) (n int64, ok bool) {
	text, _ := d.read(path(name))
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// three reads a file of three numbers.
func (d *doctor) three(path string) (a, b, c int64, ok bool) {
	text, _ := d.read(path)
	n, err := fmt.Sscan(text, &a, &b, &c)
	return a, b, c, err == nil && n == 3
}
