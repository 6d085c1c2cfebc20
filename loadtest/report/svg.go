//go:build linux

package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"ssed/loadtest/hist"
)

// palette is that of Okabe and Ito, told apart with any colour vision.
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// canvas collects the elements of a plot.
type canvas struct {
	strings.Builder
	width, height float64
}

func newCanvas(width, height float64, label string) *canvas {
	c := &canvas{width: width, height: height}
	fmt.Fprintf(c, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, width, height, template.HTMLEscapeString(label))
	return c
}

func (c *canvas) line(x1, y1, x2, y2 float64, stroke string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`, x1, y1, x2, y2, stroke)
}

// text writes s; anchor is start, middle or end.
func (c *canvas) text(x, y float64, anchor, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, template.HTMLEscapeString(s))
}

func (c *canvas) done() template.HTML {
	c.WriteString("</svg>")
	return template.HTML(c.String())
}

const (
	gridColour = "#e4e7ec"
	axisColour = "#8a93a3"
)

// bars plots the median of a metric per target, the rounds as dots.
func (s *Scenario) bars(m Metric) template.HTML {
	const left, top, rowHeight, width, right = 110.0, 8.0, 34.0, 480.0, 90.0
	var peak float64
	for _, t := range s.Targets {
		peak = max(peak, s.Value(t, m.Key).Max)
	}
	if peak <= 0 {
		return ""
	}
	bottom := top + rowHeight*float64(len(s.Targets))
	step := niceStep(peak / 4)
	scale := (width - left - right) / (math.Ceil(peak/step) * step)
	c := newCanvas(width, bottom+36, m.Label)
	for v := 0.0; v <= peak+step*0.99; v += step {
		x := left + v*scale
		c.line(x, top, x, bottom, gridColour)
		c.text(x, bottom+15, "middle", shortNumber(v))
	}
	c.text(left+(width-left-right)/2, bottom+31, "middle", m.Unit)
	for i, t := range s.Targets {
		v := s.Value(t, m.Key)
		y := top + rowHeight*float64(i)
		c.text(left-8, y+rowHeight/2+4, "end", t)
		if v.N == 0 {
			c.text(left+6, y+rowHeight/2+4, "start", "not measured")
			continue
		}
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" fill="%s" fill-opacity=".8"/>`,
			left, y+7, max(v.Median*scale, 1), rowHeight-14, colour(i))
		s.dots(c, t, m.Key, left, y+rowHeight/2, scale)
		c.text(left+v.Max*scale+8, y+rowHeight/2+4, "start", format(v.Median))
	}
	c.line(left, top, left, bottom, axisColour)
	return c.done()
}

// dots marks each round of a target.
func (s *Scenario) dots(c *canvas, target, key string, left, y, scale float64) {
	for _, r := range s.Runs {
		if v, ok := r.Values[key]; ok && r.Target == target {
			fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="3" fill="#fff" stroke="#1d2129"><title>round %d: %s</title></circle>`,
				left+v*scale, y, r.Round, format(v))
		}
	}
}

func colour(i int) string { return palette[i%len(palette)] }

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, k := range []float64{1, 2, 5} {
		if v <= k*power {
			return k * power
		}
	}
	return 10 * power
}

func shortNumber(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e4)/100)
	case v >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v/10)/100)
	}
	return fmt.Sprintf("%g", math.Round(v*1e6)/1e6)
}

// quantiles are where a latency curve is drawn; the axis shows how rare what is
// above is, each nine the same distance.
var quantiles = []struct {
	q     float64
	label string
}{{0, ""}, {0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9 %"}, {0.9999, "99.99 %"}}

// curve plots latency over percentiles, a line per target.
func (s *Scenario) curve(phase string) template.HTML {
	const left, top, width, height, right, bottom = 62.0, 10.0, 480.0, 300.0, 32.0, 246.0
	low, high := s.latencyRange(phase)
	if high == 0 {
		return ""
	}
	last := rarity(quantiles[len(quantiles)-1].q)
	x := func(q float64) float64 { return left + (width-left-right)*rarity(q)/last }
	y := func(d time.Duration) float64 {
		share := (math.Log10(float64(d)) - low) / (high - low)
		return bottom - (bottom-top)*min(max(share, 0), 1)
	}
	c := newCanvas(width, height, "latency by percentile, "+phase)
	for p := low; p <= high; p++ {
		d := time.Duration(math.Pow(10, p))
		c.line(left, y(d), width-right, y(d), gridColour)
		c.text(left-6, y(d)+4, "end", d.String())
	}
	for _, k := range quantiles {
		c.line(x(k.q), top, x(k.q), bottom, gridColour)
		c.text(x(k.q), bottom+16, "middle", k.label)
	}
	c.text(left+(width-left-right)/2, bottom+32, "middle", "percentile of deliveries (logarithmic: each nine the same)")
	legend := left
	for i, t := range s.Targets {
		h := s.Latency(t, phase)
		if h.Count() == 0 {
			continue
		}
		c.polyline(h, x, y, colour(i))
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="12" height="4" fill="%s"/>`, legend, bottom+44, colour(i))
		c.text(legend+16, bottom+50, "start", t)
		legend += 40 + 7*float64(len(t))
	}
	return c.done()
}

// rarity is 0 for all, 1 for one in ten above, 2 for one in a hundred.
func rarity(q float64) float64 { return -math.Log10(1 - q) }

// latencyRange returns the powers of ten around the latencies of a phase.
func (s *Scenario) latencyRange(phase string) (low, high float64) {
	low = math.Inf(1)
	for _, t := range s.Targets {
		h := s.Latency(t, phase)
		if h.Count() == 0 {
			continue
		}
		low = min(low, math.Floor(math.Log10(float64(max(h.Quantile(0.01), 1)))))
		high = max(high, math.Ceil(math.Log10(float64(max(h.Quantile(0.9999), 1)))))
	}
	if high <= low {
		high = low + 1
	}
	if math.IsInf(low, 1) {
		return 0, 0
	}
	return low, high
}

// polyline draws the quantiles of h as far as there are values to tell them.
func (c *canvas) polyline(h *hist.Histogram, x func(float64) float64, y func(time.Duration) float64, stroke string) {
	last := rarity(quantiles[len(quantiles)-1].q)
	fmt.Fprintf(c, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, stroke)
	const steps = 160
	for i := range steps + 1 {
		q := 1 - math.Pow(10, -last*float64(i)/steps)
		if (1-q)*float64(h.Count()) < 1 && i > 0 {
			break
		}
		fmt.Fprintf(c, "%.1f,%.1f ", x(q), y(max(h.Quantile(q), 1)))
	}
	c.WriteString(`"/>`)
}
