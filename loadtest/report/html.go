//go:build linux

package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"regexp"
	"strings"
	"time"
)

//go:embed page.html
var pageSource string

// noWord is what an anchor does not hold.
var noWord = regexp.MustCompile(`[^a-zA-Z0-9]+`)

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"bytes": func(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) },
	// A summary of several rounds is "median [smallest…greatest]".
	"median": func(cell string) string { median, _, _ := strings.Cut(cell, " ["); return median },
	"spread": func(cell string) string {
		_, spread, _ := strings.Cut(cell, " [")
		return strings.TrimSuffix(spread, "]")
	},
	"anchor": func(name string) string { return noWord.ReplaceAllString(name, "-") },
	"date":   func(t time.Time) string { return t.Format("2 January 2006, 15:04:05 MST") },
}).Parse(pageSource))

// chart is one plot with its caption.
type chart struct {
	Title string
	SVG   template.HTML // made by this package from numbers and escaped names
}

type section struct {
	*Scenario
	Rows   [][]string
	Charts []chart
	Remark []string
}

// WriteHTML writes one page that needs nothing else: style and plots are inside.
func (r *Report) WriteHTML(w io.Writer) error {
	var sections []section
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		sections = append(sections, section{Scenario: s, Rows: s.Table(), Charts: s.charts(), Remark: s.remarks()})
	}
	return page.Execute(w, struct {
		*Report
		Sections []section
	}{r, sections})
}

func (s *Scenario) remarks() []string {
	out := s.notes()
	for _, r := range s.Runs {
		if r.Error != "" {
			out = append(out, fmt.Sprintf("%s, round %d failed: %s", r.Target, r.Round, r.Error))
		}
	}
	return out
}

// charts are the bars of the plotted metrics, then a latency curve per phase.
func (s *Scenario) charts() (out []chart) {
	for _, m := range s.Metrics {
		if !m.Plot {
			continue
		}
		if svg := s.bars(m); svg != "" {
			out = append(out, chart{Title: m.Label + better(m.Better), SVG: svg})
		}
	}
	for _, phase := range s.Phases() {
		if svg := s.curve(phase); svg != "" {
			out = append(out, chart{Title: "Latency by percentile: " + phase, SVG: svg})
		}
	}
	return out
}

func better(d Direction) string {
	if d == Neither {
		return ""
	}
	return " (" + string(d) + " is better)"
}
