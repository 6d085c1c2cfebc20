//go:build linux

package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"ssed/loadtest/swarm"
)

// WriteText writes a table per scenario: a row per metric, a column per target
// with the median of the rounds, and the ratio to the reference.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d × %s, file limit %d\n", r.Host.Kernel, r.Host.CPUs, r.Host.CPU, r.Host.FileLimit)
	for i := range r.Scenarios {
		r.Scenarios[i].writeText(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *Scenario) writeText(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s: %s\n", strings.ToUpper(s.Name), s.About)
	var params []string
	for _, p := range s.Params {
		params = append(params, p.Name+" "+p.Value)
	}
	fmt.Fprintf(b, "  %s\n\n", strings.Join(params, ", "))
	writeColumns(b, s.Table())
	for _, r := range s.Runs {
		if r.Error != "" {
			fmt.Fprintf(b, "  ! %s, round %d: %s\n", r.Target, r.Round, r.Error)
		}
	}
	for _, note := range s.notes() {
		fmt.Fprintf(b, "  note: %s\n", note)
	}
}

// notes are those of all runs, each once.
func (s *Scenario) notes() (out []string) {
	seen := map[string]bool{}
	for _, r := range s.Runs {
		for _, note := range r.Notes {
			if line := r.Target + ": " + note; !seen[line] {
				seen[line] = true
				out = append(out, line)
			}
		}
	}
	return out
}

// Table is the summary as cells, the heading first.
func (s *Scenario) Table() [][]string {
	head := append([]string{"", "unit"}, s.Targets...)
	for _, r := range s.ratios() {
		head = append(head, r.of+" / "+r.to)
	}
	rows := [][]string{head}
	for _, m := range s.Metrics {
		if row, some := s.row(m); some {
			rows = append(rows, row)
		}
	}
	return append(rows, s.faults())
}

// ratio is a column that divides one target by another.
type ratio struct{ of, to string }

// ratios are those of every target to every reference before it: of two
// references the later to the earlier.
func (s *Scenario) ratios() (list []ratio) {
	for i, to := range s.References {
		for _, t := range s.Targets {
			if !slices.Contains(s.References[:i+1], t) {
				list = append(list, ratio{t, to})
			}
		}
	}
	return list
}

// row is the line of a metric; some is false when no target has it.
func (s *Scenario) row(m Metric) (row []string, some bool) {
	row = []string{m.Label, m.Unit}
	for _, t := range s.Targets {
		v := s.Value(t, m.Key)
		some = some || v.N > 0
		row = append(row, formatSpread(v))
	}
	for _, r := range s.ratios() {
		ratio := s.Ratio(r.of, r.to, m.Key)
		if ratio.N == 0 || m.Better == Neither {
			row = append(row, "")
			continue
		}
		row = append(row, fmt.Sprintf("%.2f", ratio.Median))
	}
	return row, some
}

// faults is the line of the delivery counters.
func (s *Scenario) faults() []string {
	row := []string{"lost / dup / late / ended / other", ""}
	for _, t := range s.Targets {
		row = append(row, faultCell(s.Counts(t)))
	}
	return append(row, make([]string, len(s.ratios()))...)
}

func faultCell(c swarm.Counts) string {
	return fmt.Sprintf("%d / %d / %d / %d / %d", c.Lost, c.Duplicates, c.Late, c.Closed, c.Misrouted+c.Torn+c.Foreign+c.Gaps)
}

func formatSpread(v Spread) string {
	switch {
	case v.N == 0:
		return "–"
	case v.N == 1 || format(v.Min) == format(v.Max):
		return format(v.Median)
	}
	return format(v.Median) + " [" + format(v.Min) + "…" + format(v.Max) + "]"
}

// format writes three significant digits, or all digits with separators of
// thousands.
func format(v float64) string {
	abs := math.Abs(v)
	switch {
	case abs >= 100:
		return thousands(int64(math.Round(v)))
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 1 || v == 0:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

func thousands(v int64) string {
	digits := strconv.FormatInt(v, 10)
	sign := ""
	if v < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// writeColumns aligns cells: the first two columns left, figures right.
func writeColumns(b *strings.Builder, rows [][]string) {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		b.WriteString("  ")
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				b.WriteString(cell + pad + "  ")
			} else {
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteByte('\n')
	}
}
