package target

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// proc is /proc of this host.
func proc() (procfs.FS, error) { return procfs.NewDefaultFS() }

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

// readStat reads user and system time, in ticks, from /proc/<pid>/stat.
func readStat(pid int) (CPU, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return CPU{}, fmt.Errorf("target: cpu time: %w", err)
	}
	stat, err := p.Stat()
	if err != nil {
		return CPU{}, fmt.Errorf("target: cpu time: %w", err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all Linux ABIs
	return CPU{User: time.Duration(stat.UTime) * tick, System: time.Duration(stat.STime) * tick}, nil
}

// ReadThreads returns how long each thread of processes ran so far, by thread id,
// from /proc/<pid>/task/<tid>/schedstat; empty where the kernel does not keep it.
func ReadThreads(pids []int) map[int]time.Duration {
	out := map[int]time.Duration{}
	for _, pid := range pids {
		threads, _ := procfs.AllThreads(pid) // a process that is gone has no threads
		for _, t := range threads {
			if stat, err := t.Schedstat(); err == nil { // else it has just ended
				out[t.PID] = time.Duration(stat.RunningNanoseconds)
			}
		}
	}
	return out
}

// SoftIRQThreads are the kernel's threads that do what network work was put off,
// one per CPU; none inside a PID namespace.
func SoftIRQThreads() (pids []int) {
	all, _ := procfs.AllProcs()
	for _, p := range all {
		if name, _ := p.Comm(); strings.HasPrefix(name, "ksoftirqd/") {
			pids = append(pids, p.PID)
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
		p, err := procfs.NewProc(pid)
		if err != nil {
			return sum, fmt.Errorf("target: memory: %w", err)
		}
		maps, err := p.ProcSMapsRollup()
		if err != nil {
			return sum, fmt.Errorf("target: memory: %w", err)
		}
		sum.RSS += int64(maps.Rss)
		sum.Anonymous += int64(maps.Anonymous)
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
func ReadKernel() (k Kernel, err error) {
	fs, err := proc()
	if err != nil {
		return k, fmt.Errorf("target: kernel memory: %w", err)
	}
	m, err := fs.Meminfo()
	if err != nil {
		return k, fmt.Errorf("target: kernel memory: %w", err)
	}
	k.Slab, k.Slack = known(m.SlabBytes), known(m.SReclaimableBytes)
	k.Available, k.PageTables = known(m.MemAvailableBytes), known(m.PageTablesBytes)
	sockets, err := fs.NetSockstat()
	if err != nil {
		return k, fmt.Errorf("target: kernel memory: %w", err)
	}
	for _, p := range sockets.Protocols {
		if p.Protocol == "TCP" {
			k.SockBufs = known(p.Mem) * int64(os.Getpagesize())
			k.Sockets, k.TimeWaits = known(p.Alloc), known(p.TW)
		}
	}
	return k, nil
}

// known is a figure, 0 where the kernel does not tell it.
func known[N int | uint64](n *N) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}

// ReadSlabs returns the bytes of each kernel object cache; only root may read
// them, for others it is empty.
func ReadSlabs() map[string]int64 {
	out := map[string]int64{}
	fs, err := proc()
	if err != nil {
		return out
	}
	info, err := fs.SlabInfo()
	if err != nil {
		return out
	}
	for _, s := range info.Slabs {
		out[s.Name] = s.ObjNum * s.ObjSize
	}
	return out
}

// CountFDs returns how many descriptors processes have open.
func CountFDs(pids []int) (n int, err error) {
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return n, fmt.Errorf("target: descriptors: %w", err)
		}
		open, err := p.FileDescriptorsLen()
		if err != nil {
			return n, fmt.Errorf("target: descriptors: %w", err)
		}
		n += open
	}
	return n, nil
}

// FileLimit returns the smallest soft limit of open files among processes, 0 when
// it can not be read.
func FileLimit(pids []int) (limit int) {
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue
		}
		if l, err := p.Limits(); err == nil && (limit == 0 || l.OpenFiles < uint64(limit)) {
			limit = int(min(l.OpenFiles, 1<<30)) // it may be unlimited
		}
	}
	return limit
}
