package doctor

import (
	"bufio"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// What a connection that rests takes, as docs/PERFORMANCE.md has measured it: at most
// 320 bytes of the process and, with its socket, half of the 10.3 KB that both ends have.
// The process itself takes 20 MB.
const (
	userBytes    = 320
	kernelBytes  = 5 << 10
	processBytes = 20 << 20
)

func (d *doctor) memory() {
	const check = "memory"
	have, where, ok := d.available()
	if !ok {
		d.skip(check, "how much there is cannot be read")
		return
	}
	fixed := int64(processBytes) + d.RingBytes
	need := fixed + int64(d.MaxConnections)*(userBytes+kernelBytes)
	text := fmt.Sprintf("%d connections need about %s (%s of them the kernel's, %s --ring-bytes), %s has %s",
		d.MaxConnections, size(need), size(int64(d.MaxConnections)*kernelBytes), size(d.RingBytes), where, size(have))
	fits := max((have*8/10-fixed)/(userBytes+kernelBytes), 0)
	fix := fmt.Sprintf("more memory, or --max-connections %d", fits)
	if fits == 0 {
		fix = "more memory, or a smaller --ring-bytes"
	}
	switch {
	case need > have:
		d.fail(check, text, fix)
	case need > have*8/10: // sockets that nobody reads from take more
		d.warn(check, text+": that leaves little for clients that do not read", fix)
	default:
		d.ok(check, text)
	}
}

// available is the smaller of what the machine and the control group have left.
func (d *doctor) available() (bytes int64, where string, ok bool) {
	bytes = math.MaxInt64
	if machine, found := d.memAvailable(); found {
		bytes, where, ok = machine, "the machine", true
	}
	for _, group := range d.groups() {
		limit, found := d.bytesIn(group.limit)
		used, foundUse := d.bytesIn(group.use)
		if found && foundUse && limit-used < bytes {
			bytes, where, ok = max(limit-used, 0), "the control group", true
		}
	}
	return bytes, where, ok
}

func (d *doctor) memAvailable() (bytes int64, ok bool) {
	text, _ := d.read("/proc/meminfo")
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "MemAvailable:"); found {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// groupFiles are the files of a control group.
type groupFiles struct{ limit, use string }

// groups are those of this process, of both versions: its own, those above it, and the
// root, which in a container is its own.
func (d *doctor) groups() (all []groupFiles) {
	text, _ := d.read("/proc/self/cgroup")
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := strings.Trim(parts[2], "/"); ; name = parent(name) {
			switch {
			case parts[0] == "0":
				dir := strings.TrimSuffix("/sys/fs/cgroup/"+name, "/")
				all = append(all, groupFiles{dir + "/memory.max", dir + "/memory.current"})
			case parts[1] == "memory":
				dir := strings.TrimSuffix("/sys/fs/cgroup/memory/"+name, "/")
				all = append(all, groupFiles{dir + "/memory.limit_in_bytes", dir + "/memory.usage_in_bytes"})
			}
			if name == "" {
				break
			}
		}
	}
	return all
}

// parent cuts the last element; not with package path, which knows "." and "..".
func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)]
}

// bytesIn reads a number; "max" is none.
func (d *doctor) bytesIn(path string) (n int64, ok bool) {
	text, _ := d.read(path)
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
