// Command testreport reads the output of "go test -json" on standard input and
// prints it for people: a line for each package and each of its tests, the whole
// output of what failed, and "N passed, N failed, N skipped" as the last line. It
// exits with 1 when anything failed or no test passed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.finish() {
		os.Exit(1)
	}
}

// event is a line of go test -json; see "go doc test2json" and "go help buildjson".
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type report struct {
	out io.Writer

	passed, failed, skipped int
	broken                  int // packages that failed outside of their tests

	output   map[string]*strings.Builder // of what has not ended yet, by package and test
	inTests  map[string]int              // failed tests by package
	finished map[string][]string         // lines of the top-level tests by package
}

func newReport(out io.Writer) *report {
	return &report{
		out:      out,
		output:   map[string]*strings.Builder{},
		inTests:  map[string]int{},
		finished: map[string][]string{},
	}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes one event; what is no event is printed as it is.
func (r *report) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		fmt.Fprintf(r.out, "%s", line)
		return
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.keep(key, e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.broken++
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(e, key)
		}
		delete(r.output, key)
	}
}

func (r *report) keep(key, text string) {
	b := r.output[key]
	if b == nil {
		b = new(strings.Builder)
		r.output[key] = b
	}
	b.WriteString(text)
}

func (r *report) endTest(e event, key string) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
	case "fail":
		r.failed++
		r.inTests[e.Package]++
		if b := r.output[key]; b != nil {
			fmt.Fprintf(r.out, "--- output of %s in %s:\n%s", e.Test, e.Package, b)
		}
	}
	if !strings.Contains(e.Test, "/") {
		r.finished[e.Package] = append(r.finished[e.Package], fmt.Sprintf("    %-4s %s (%v)", e.Action, e.Test, took))
	}
}

func (r *report) endPackage(e event) {
	tests := r.finished[e.Package]
	delete(r.finished, e.Package)
	if e.Action == "skip" && len(tests) == 0 {
		return // no test files
	}
	fmt.Fprintf(r.out, "%-4s %s (%.1fs)\n", e.Action, e.Package, e.Elapsed)
	for _, line := range tests {
		fmt.Fprintln(r.out, line)
	}
	if e.Action != "fail" {
		return
	}
	if r.inTests[e.Package] == 0 {
		r.broken++ // it did not build, TestMain failed, or it died outside of a test
	}
	r.unfinished(e.Package)
}

// unfinished prints what a package that failed had said outside of its tests, and
// in those that never ended: a panic, a data race, a timeout.
func (r *report) unfinished(pkg string) {
	for key, b := range r.output {
		if rest, found := strings.CutPrefix(key, pkg+" "); found {
			fmt.Fprintf(r.out, "--- output of %s %s:\n%s", pkg, rest, b)
			delete(r.output, key)
		}
	}
}

// finish prints the last line and tells whether all is well.
func (r *report) finish() bool {
	failed := r.failed + r.broken
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, failed, r.skipped)
	return failed == 0 && r.passed > 0
}
