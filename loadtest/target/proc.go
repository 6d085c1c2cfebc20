package target

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the time that processes ran.
type CPU struct {
	Total time.Duration
	// User and System are the shares of Total that the kernel's accounting sees.
	User, System time.Duration
}

// Sub returns the time since earlier.
func (c CPU) Sub(earlier CPU) CPU {
	return CPU{Total: c.Total - earlier.Total, User: c.User - earlier.User, System: c.System - earlier.System}
}

// ReadCPU adds up the CPU time of processes. Total comes from the process clock,
// in nanoseconds; user and system time from /proc/<pid>/stat, in ticks of 10 ms,
// whose sum is also the total where the clock can not be read.
func ReadCPU(pids []int) (CPU, error) {
	var sum CPU
	for _, pid := range pids {
		one, err := readStat(pid)
		if err != nil {
			return sum, err
		}
		sum.User += one.User
		sum.System += one.System
		var ts unix.Timespec
		if unix.ClockGettime(processClock(pid), &ts) == nil {
			sum.Total += time.Duration(ts.Nano())
		} else {
			sum.Total += one.User + one.System
		}
	}
	return sum, nil
}

// processClock is the id of the CPU clock of another process, as
// clock_getcpuclockid(3) makes it: all its threads, also those that have ended.
func processClock(pid int) int32 {
	const schedClock = 2
	return ^int32(pid)<<3 | schedClock
}

// readStat reads fields 14 and 15 of /proc/<pid>/stat, see proc(5).
func readStat(pid int) (CPU, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return CPU{}, fmt.Errorf("target: cpu time: %w", err)
	}
	// The command in field 2 may hold spaces and parentheses.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return CPU{}, fmt.Errorf("target: cpu time: /proc/%d/stat is too short", pid)
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all Linux ABIs
	return CPU{User: time.Duration(user) * tick, System: time.Duration(system) * tick}, errors.Join(err1, err2)
}

// ReadThreads returns how long each thread of processes ran so far, by thread id,
// from /proc/<pid>/task/<tid>/schedstat; empty where the kernel does not keep it.
func ReadThreads(pids []int) map[int]time.Duration {
	out := map[int]time.Duration{}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/task/", pid)
		entries, _ := os.ReadDir(dir) // a process that is gone has no threads
		for _, e := range entries {
			text, err := os.ReadFile(dir + e.Name() + "/schedstat")
			if err != nil {
				continue // it has just ended
			}
			ran, _, _ := strings.Cut(string(text), " ")
			nanos, err1 := strconv.ParseInt(ran, 10, 64)
			tid, err2 := strconv.Atoi(e.Name())
			if err1 == nil && err2 == nil {
				out[tid] = time.Duration(nanos)
			}
		}
	}
	return out
}

// SoftIRQThreads are the kernel's threads that do what network work was put off,
// one per CPU; none inside a PID namespace.
func SoftIRQThreads() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		name, _ := os.ReadFile("/proc/" + e.Name() + "/comm")
		if bytes.HasPrefix(name, []byte("ksoftirqd/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Memory is the user memory of processes in bytes, from smaps_rollup.
type Memory struct {
	RSS       int64 // resident, what counts against a container's limit
	Anonymous int64 // of that, heap and stacks
}

// ReadMemory adds up the memory of processes.
func ReadMemory(pids []int) (Memory, error) {
	var sum Memory
	for _, pid := range pids {
		fields, err := readFields(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return sum, fmt.Errorf("target: memory: %w", err)
		}
		sum.RSS += fields["Rss"]
		sum.Anonymous += fields["Anonymous"]
	}
	return sum, nil
}

// Kernel is memory that the kernel holds for the whole host, in bytes. With both
// ends of the connections on this host it counts both.
type Kernel struct {
	Slab       int64 // sockets, files, dentries, epoll items
	Slack      int64 // the part of Slab that the kernel calls reclaimable
	Available  int64 // what it thinks can still be allocated, Slack included
	PageTables int64
	SockBufs   int64 // bytes queued in TCP sockets, with their overhead
	Sockets    int64 // TCP sockets allocated, both ends
	TimeWaits  int64 // closed connections that the kernel still remembers
}

// ReadKernel reads /proc/meminfo and /proc/net/sockstat.
func ReadKernel() (Kernel, error) {
	fields, err := readFields("/proc/meminfo")
	if err != nil {
		return Kernel{}, fmt.Errorf("target: kernel memory: %w", err)
	}
	k := Kernel{
		Slab: fields["Slab"], Slack: fields["SReclaimable"],
		Available: fields["MemAvailable"], PageTables: fields["PageTables"],
	}
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return k, fmt.Errorf("target: kernel memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		for i := 1; len(words) > 0 && words[0] == "TCP:" && i+1 < len(words); i += 2 {
			n, _ := strconv.ParseInt(words[i+1], 10, 64)
			switch words[i] {
			case "mem":
				k.SockBufs = n * int64(os.Getpagesize())
			case "alloc":
				k.Sockets = n
			case "tw":
				k.TimeWaits = n
			}
		}
	}
	return k, nil
}

// ReadSlabs returns the bytes of each kernel object cache; only root may read
// them, for others it is empty.
func ReadSlabs() map[string]int64 {
	out := map[string]int64{}
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(text)) {
		// name <active_objs> <num_objs> <objsize> …
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		count, err1 := strconv.ParseInt(words[2], 10, 64)
		size, err2 := strconv.ParseInt(words[3], 10, 64)
		if err1 == nil && err2 == nil {
			out[words[0]] = count * size
		}
	}
	return out
}

// readFields reads lines of "Name: 123 kB".
func readFields(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]int64{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		words := strings.Fields(rest)
		if len(words) == 2 && words[1] == "kB" {
			n, _ := strconv.ParseInt(words[0], 10, 64)
			out[name] = n << 10
		}
	}
	return out, nil
}

// CountFDs returns how many descriptors processes have open.
func CountFDs(pids []int) (n int, err error) {
	for _, pid := range pids {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return n, fmt.Errorf("target: descriptors: %w", err)
		}
		n += len(entries)
	}
	return n, nil
}

// FileLimit returns the smallest soft limit of open files among processes, 0 when
// it can not be read.
func FileLimit(pids []int) (limit int) {
	for _, pid := range pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		for line := range strings.Lines(string(text)) {
			rest, ok := strings.CutPrefix(line, "Max open files")
			if words := strings.Fields(rest); ok && len(words) > 0 {
				n, err := strconv.Atoi(words[0])
				if err == nil && (limit == 0 || n < limit) {
					limit = n
				}
			}
		}
	}
	return limit
}
