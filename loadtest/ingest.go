//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"ssed/loadtest/report"
)

// ingest measures what a message costs Redis and each instance on its way in.
type ingest struct {
	Primaries []int    `help:"Redis primaries, each with one partition: 1 is a single server, more are a cluster; beside clusters one of one primary is measured, too." default:"1,2,3" placeholder:"N"`
	Instances []int    `help:"Instances of ssed." default:"1,4,16" placeholder:"N"`
	Messages  int      `help:"Messages of a round for each primary, with one instance; with 4 it is half of that, with 16 a fifth. Batches carry twice as many with a history, and thirty times as many without: each costs so little." default:"80000"`
	History   []string `help:"With the history off, on, or both in turn." enum:"off,on" default:"off,on"`
	Markdown  []string `help:"Put the tables between the markers of a document. May repeat." placeholder:"FILE" type:"path"`
}

// Ways of publishing.
const (
	alone   = "alone"
	batched = "batched"
)

// What the messages look like.
const (
	ingestBytes    = 128
	ingestChannels = 1000
	ingestPerBatch = 100
	batchChannel   = "ssed:batch"
)

// ingestCase is a fleet that is measured.
type ingestCase struct {
	redis     servers
	instances int
	history   bool
}

// servers are a single Redis, or a cluster of so many primaries.
type servers struct {
	primaries int
	cluster   bool
}

func (s servers) String() string {
	if s.cluster {
		return fmt.Sprintf("cluster of %d", s.primaries)
	}
	return "single"
}

func (c ingestCase) name() string {
	return fmt.Sprintf("%v, %d × ssed, history %s", c.redis, c.instances, onOff(c.history))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (g *ingest) check(o *options) error {
	switch {
	case o.SsedBin == "":
		return errors.New("ingest needs --ssed-bin")
	case g.Messages < 1:
		return errors.New("--messages: at least 1")
	case slices.Min(g.Primaries) < 1 || slices.Min(g.Instances) < 1:
		return errors.New("--primaries and --instances: at least 1")
	}
	return nil
}

// servers are all that were asked for. Beside clusters there is one of one primary: what a
// node of a cluster does more than a single server is no matter of how many there are.
func (g *ingest) servers() (list []servers) {
	for _, n := range g.Primaries {
		if n > 1 {
			list = append(list, servers{n, true})
			continue
		}
		list = append(list, servers{1, false})
		if slices.Max(g.Primaries) > 1 {
			list = append(list, servers{1, true})
		}
	}
	return list
}

// one is what others are compared with.
func (g *ingest) one() servers { return servers{1, slices.Max(g.Primaries) > 1} }

// cases are all fleets, those of one history together.
func (g *ingest) cases() (list []ingestCase) {
	for _, history := range g.History {
		for _, s := range g.servers() {
			for _, instances := range g.Instances {
				list = append(list, ingestCase{s, instances, history == "on"})
			}
		}
	}
	return list
}

// measure runs all cases and writes the tables.
func (g *ingest) measure(ctx context.Context, o *options, args []string, stdout, stderr io.Writer) int {
	if err := g.check(o); err != nil {
		fmt.Fprintln(stderr, "loadtest:", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.MaxTime, fmt.Errorf("--max-time of %v is over", o.MaxTime))
	defer cancel()
	out := &report.Report{Started: time.Now(), Command: "loadtest " + quoteArgs(args), Host: describeHost()}
	progress := newProgress(stderr, o.Quiet)
	scenario := g.describe()
	for _, c := range g.cases() {
		scenario.Targets = append(scenario.Targets, c.name())
		progress.begin("ingest " + c.name())
		runs, err := g.run(ctx, o, c)
		if ctx.Err() != nil {
			break // what was cut short is no result
		}
		if err != nil {
			runs = append(runs, report.Run{Target: c.name(), Round: len(runs) + 1, Values: map[string]float64{}, Error: err.Error()})
		}
		scenario.Runs = append(scenario.Runs, runs...)
	}
	progress.close()
	out.Scenarios = []report.Scenario{scenario}
	tables := g.tables(&scenario)
	_, err := io.WriteString(stdout, out.Host.Kernel+", "+out.Host.CPU+"\n\n"+tables.figures+"\n"+tables.reach+failures(&scenario))
	if o.JSON != "" {
		err = errors.Join(err, writeFile(o.JSON, out.WriteJSON))
	}
	for _, path := range g.Markdown {
		err = errors.Join(err, tables.put(path))
	}
	return verdict(out, errors.Join(err, context.Cause(ctx)), stderr)
}

// failures names what could not be measured.
func failures(s *report.Scenario) (text string) {
	for _, r := range s.Runs {
		if r.Error != "" {
			text += fmt.Sprintf("\n%s, round %d failed: %s\n", r.Target, r.Round, r.Error)
		}
	}
	return text
}

func (g *ingest) describe() report.Scenario {
	return report.Scenario{
		Name:  "ingest",
		About: "Messages from Redis into the rings of all instances, as fast as they take them: CPU time of each process.",
		Params: []report.Param{
			param("bytes", ingestBytes), param("channels", ingestChannels), param("messages in a batch", ingestPerBatch),
		},
		Metrics: []report.Metric{
			{Key: redisKey(alone), Label: "busiest Redis, per message", Unit: "µs", Better: report.Less},
			{Key: redisKey(batched), Label: "busiest Redis, per message of a batch", Unit: "µs", Better: report.Less},
			{Key: ssedKey(alone), Label: "each ssed, per message", Unit: "µs", Better: report.Less},
			{Key: ssedKey(batched), Label: "each ssed, per message of a batch", Unit: "µs", Better: report.Less},
			{Key: "redis_idle", Label: "busiest Redis without messages, of a core", Unit: "%", Better: report.Less},
			{Key: "ssed_idle", Label: "each ssed without messages, of a core", Unit: "%", Better: report.Less},
		},
	}
}

func redisKey(kind string) string { return "redis_" + kind + "_us" }
func ssedKey(kind string) string  { return "ssed_" + kind + "_us" }

// ingestTables are the results as Markdown.
type ingestTables struct{ figures, reach string }

// Markers of a document.
const (
	figuresMarker = "ingest figures"
	reachMarker   = "ingest reach"
)

var errIngestMarkers = errors.New("the document has none of the markers <!-- " + figuresMarker + " --> and <!-- " + reachMarker + " -->")

// put replaces what a document has between the markers of each table.
func (t ingestTables) put(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, found := string(text), false
	for marker, table := range map[string]string{figuresMarker: t.figures, reachMarker: t.reach} {
		from, to := "<!-- "+marker+" -->\n", "<!-- /"+marker+" -->\n"
		before, rest, ok := strings.Cut(out, from)
		_, after, ok2 := strings.Cut(rest, to)
		if ok && ok2 {
			out, found = before+from+"\n"+table+"\n"+to+after, true
		}
	}
	if !found {
		return fmt.Errorf("%s: %w", path, errIngestMarkers)
	}
	return os.WriteFile(path, []byte(out), 0o644)
}
