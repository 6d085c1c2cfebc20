//go:build linux

package report

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"ssed/loadtest/hist"
	"ssed/loadtest/swarm"
)

// Report is all that one invocation measured.
type Report struct {
	Started   time.Time  `json:"started"`
	Command   string     `json:"command"`
	Host      Host       `json:"host"`
	Scenarios []Scenario `json:"scenarios"`
}

// Host is the machine that ran both the load and, usually, the servers.
type Host struct {
	Kernel    string `json:"kernel"`
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	Memory    int64  `json:"memory_bytes"`
	FileLimit int    `json:"file_limit"`
	Go        string `json:"go"`
}

// Scenario is one kind of load with the runs of all targets.
type Scenario struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Params  []Param  `json:"params"`
	Metrics []Metric `json:"metrics"`
	Targets []string `json:"targets"`
	// References are the targets that the others are divided by.
	References []string `json:"references"`
	Runs       []Run    `json:"runs"`
}

// Param is a setting of a scenario, for the reader.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Direction says which values of a metric are good.
type Direction string

const (
	More    Direction = "more"
	Less    Direction = "less"
	Neither Direction = ""
)

// Metric describes a figure.
type Metric struct {
	Key    string    `json:"key"`
	Label  string    `json:"label"`
	Unit   string    `json:"unit"`
	Better Direction `json:"better,omitempty"`
	// Plot puts the figure into a bar chart of the HTML page.
	Plot bool `json:"plot,omitempty"`
}

// Run is one round of one target.
type Run struct {
	Target string             `json:"target"`
	Round  int                `json:"round"`
	Values map[string]float64 `json:"values"`
	Counts swarm.Counts       `json:"counts"`
	// Latency by phase, from the time a message was due to its arrival.
	Latency map[string]*hist.Histogram `json:"latency,omitempty"`
	// Kernel is what grew among the kernel's object caches, bytes per connection.
	Kernel map[string]float64 `json:"kernel_caches,omitempty"`
	Notes  []string           `json:"notes,omitempty"`
	Error  string             `json:"error,omitempty"`
}

// Spread is the median of the rounds with the smallest and the greatest.
type Spread struct {
	Median, Min, Max float64
	N                int
}

// Value summarises a metric of a target over its rounds.
func (s *Scenario) Value(target, key string) Spread {
	var all []float64
	for _, r := range s.Runs {
		if v, ok := r.Values[key]; ok && r.Target == target {
			all = append(all, v)
		}
	}
	return spreadOf(all)
}

// Ratio is a metric of a target divided by another's of the same round.
func (s *Scenario) Ratio(target, to, key string) Spread {
	reference := map[int]float64{}
	for _, r := range s.Runs {
		if v, ok := r.Values[key]; ok && r.Target == to {
			reference[r.Round] = v
		}
	}
	var all []float64
	for _, r := range s.Runs {
		v, ok := r.Values[key]
		if base := reference[r.Round]; ok && r.Target == target && base > 0 {
			all = append(all, v/base)
		}
	}
	return spreadOf(all)
}

func spreadOf(all []float64) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	slices.Sort(all)
	mid := len(all) / 2
	median := all[mid]
	if len(all)%2 == 0 {
		median = (all[mid-1] + all[mid]) / 2
	}
	return Spread{Median: median, Min: all[0], Max: all[len(all)-1], N: len(all)}
}

// Counts adds up the counters of a target's rounds.
func (s *Scenario) Counts(target string) (sum swarm.Counts) {
	for _, r := range s.Runs {
		if r.Target == target {
			sum.Add(r.Counts)
		}
	}
	return sum
}

// Phases lists the latency phases that any run has, in alphabetical order.
func (s *Scenario) Phases() (phases []string) {
	for _, r := range s.Runs {
		for phase := range r.Latency {
			if !slices.Contains(phases, phase) {
				phases = append(phases, phase)
			}
		}
	}
	slices.Sort(phases)
	return phases
}

// Latency merges a phase of a target's rounds.
func (s *Scenario) Latency(target, phase string) *hist.Histogram {
	sum := &hist.Histogram{}
	for _, r := range s.Runs {
		if h := r.Latency[phase]; h != nil && r.Target == target {
			sum.Merge(h)
		}
	}
	return sum
}

// Wrong returns how many faults and failed runs there are: the exit status of
// the program.
func (r *Report) Wrong() (faults int64, failed int) {
	for _, s := range r.Scenarios {
		for _, run := range s.Runs {
			faults += run.Counts.Wrong()
			if run.Error != "" {
				failed++
			}
		}
	}
	return faults, failed
}

// WriteJSON writes the report with its histograms, in one line: indented, the
// buckets alone would take ten times the bytes.
func (r *Report) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
