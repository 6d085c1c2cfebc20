//go:build linux

// Package report holds the results of load runs and shows them as a text table,
// as JSON and as one self-contained HTML page with plots.
//
// Figures of one run are compared within a round: rounds are interleaved
// (A B A B), a ratio is the median of the rounds' ratios, so that a machine that
// gets slower or faster meanwhile does not favour one side.
package report
