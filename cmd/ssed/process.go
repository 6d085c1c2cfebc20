package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"syscall"
	"time"

	"ssed/internal/admin"
)

// process reads what the system knows about this process.
type process struct {
	mu        sync.Mutex
	files     int       // guarded by mu
	countedAt time.Time // guarded by mu
}

// countEvery is how often open files are counted one by one, which costs a second of
// CPU for a million of them.
const countEvery = 30 * time.Second

// read leaves the open files out.
func (p *process) read() admin.Process {
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) // the zero tells that it is not known
	return admin.Process{
		CPU:        cpuTime().Seconds(),
		RSS:        residentBytes(),
		Heap:       heapBytes(),
		Goroutines: runtime.NumGoroutine(),
		FileLimit:  int(limit.Cur),
	}
}

// cpuTime is what all threads have used, in user and in kernel mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentBytes is the second field of statm, which counts pages.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(text)
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

// heapBytes does not stop the world, as runtime.ReadMemStats does.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// openFiles is the size of the directory of descriptors since Linux 6.2; before that
// its size is 0.
func (p *process) openFiles() int {
	const dir = "/proc/self/fd"
	if info, err := os.Stat(dir); err == nil && info.Size() > 0 {
		return int(info.Size())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.countedAt) < countEvery {
		return p.files
	}
	if d, err := os.Open(dir); err == nil {
		names, _ := d.Readdirnames(-1) // as many as could be read
		d.Close()
		p.files, p.countedAt = max(0, len(names)-1), time.Now() // less the one of d
	}
	return p.files
}
