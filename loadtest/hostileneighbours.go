//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"ssed/internal/child"
	"ssed/loadtest/neighbour"
)

// besides is one kind of neighbour.
type besides struct {
	name, about string
	kind        neighbour.Kind
	count       int     // connections at 1×, of the kinds that stand
	rate        float64 // operations a second at 1×, of the others
	each        int     // channels of one connection
	channels    int     // there are so many
	args        []string
	history     int // messages on these channels before anything is measured
	// traffic on the channels while it is measured
	burst   int     // messages when the neighbour is in place, before it is measured
	again   int     // messages at once every second
	perSec  float64 // messages a second
	body    func(bytes int) []byte
	bytes   int
	scaled  bool // perSec grows with the size, count does not
	resumes bool // needs a server that keeps a history
}

func plain(bytes int) []byte { return []byte(strings.Repeat("x", bytes)) }

func lineEnds(bytes int) []byte { return []byte(strings.Repeat("\n", bytes)) }

// hostileNeighbours are in the order of the report.
var hostileNeighbours = []besides{
	{
		name: "never reads", about: "Clients with the smallest buffers that never read, on one of two hot channels; 30,000 messages of a byte before, 500 a second meanwhile.",
		kind: neighbour.NeverReads, count: 50, channels: 2, burst: 30_000, perSec: 500, bytes: 1, body: plain,
	},
	{
		name: "never reads, two channels", about: "The same on both channels: every message is one of two heads.",
		kind: neighbour.NeverReads, count: 50, channels: 2, each: 2, burst: 30_000, perSec: 500, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "never reads, then silence", about: "The same on both channels, and no message meanwhile.",
		kind: neighbour.NeverReads, count: 50, channels: 2, each: 2, burst: 30_000, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "reads a byte at a time", about: "Clients with the smallest buffers that read one byte every 100 ms.",
		kind: neighbour.DripReads, count: 50, channels: 2, perSec: 100, bytes: 1000, body: plain,
	},
	{
		name: "resets at random bytes", about: "Connections that are reset at a random byte of the request or the answer.",
		kind: neighbour.Resets, rate: 50, channels: 1,
	},
	{
		name: "resumes everything", about: "Clients that come with the oldest ID and read 10,000 messages.",
		kind: neighbour.Resumes, rate: 2, channels: 1, history: 10_000, bytes: 100, body: plain, resumes: true,
	},
	{
		name: "resumes 32 channels", about: "The same over 32 of 64 channels, which hold 100,000 messages of one byte.",
		kind: neighbour.Resumes, rate: 1, each: 32, channels: 64, history: 100_000, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "1,024 channels", about: "Streams of 1,024 channels each; every second a burst of 2,048 messages over all of them.",
		kind: neighbour.Reads, count: 4, each: 1024, channels: 1024, args: []string{"--max-channels-per-connection", "1024"},
		again: 2048, bytes: 1, body: plain, resumes: true,
	},
	{
		name: "huge messages", about: "Five messages of 1,000,000 bytes a second.",
		kind: neighbour.Reads, count: 2, channels: 1, perSec: 5, bytes: 1_000_000, body: plain,
	},
	{
		name: "line ends", about: "Messages of 256 KiB of nothing but line ends; one client.",
		kind: neighbour.Reads, count: 1, channels: 1, perSec: 1, scaled: true, bytes: 256 << 10, body: lineEnds,
	},
	{
		name: "connect storm", about: "Clients that connect, wait for the answer and leave.",
		kind: neighbour.Connects, rate: 100, channels: 1,
	},
	{
		name: "abandoned resumes", about: "Clients that come with an ID of their own and leave at once.",
		kind: neighbour.Abandons, rate: 20, channels: 1, resumes: true,
	},
	{
		name: "half-open heads", about: "Connections that send half a request head; those that the server closes come back.",
		kind: neighbour.HalfHead, count: 200, channels: 1,
	},
	{
		name: "full sockets at the ring's end", about: "Clients that never read while a ring of 4 MiB turns once a second; those that the server closes come back.",
		kind: neighbour.NeverReads, count: 50, channels: 2, args: []string{"--ring-bytes", "4MiB"}, perSec: 1000, bytes: 4000, body: plain,
	},
	{
		name: "a million channel names", about: "Clients that ask for 1,024 names which nobody had before, and leave.",
		kind: neighbour.FreshName, rate: 16, each: 1024, args: []string{"--max-channels-per-connection", "1024"}, resumes: true,
	},
	{
		name: "pipelined requests", about: "Connections with 50 requests at once that are no streams.",
		kind: neighbour.Pipelines, rate: 20, channels: 1,
	},
}

// neighbours is a neighbour in a process of its own.
type neighbours struct {
	process *child.Process
	stdin   io.Closer
	results chan neighbour.Result // closed at the end of its output
	last    neighbour.Result
}

// start plays n times the neighbour, and returns when its connections stand.
func (x *hostileRun) start(ctx context.Context, n int) (*neighbours, error) {
	spec, err := x.spec(n)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "serve-neighbour")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	nb := &neighbours{stdin: stdin, results: make(chan neighbour.Result, 2)}
	nb.process, err = child.Start(cmd, func() {
		defer close(nb.results)
		dec := json.NewDecoder(stdout)
		for {
			var r neighbour.Result
			if dec.Decode(&r) != nil {
				return
			}
			nb.results <- r
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start a neighbour: %w", err)
	}
	if err := json.NewEncoder(stdin).Encode(spec); err != nil {
		nb.stop()
		return nil, fmt.Errorf("start a neighbour: %w", err)
	}
	select {
	case r, ok := <-nb.results:
		if !ok || !r.Ready {
			return nil, fmt.Errorf("the neighbour did not get in place: %s%s", r.Error, nb.stop().Error)
		}
		return nb, nil
	case <-ctx.Done():
		nb.stop()
		return nil, context.Cause(ctx)
	}
}

// stop ends it and returns what it did. It may be called again.
func (nb *neighbours) stop() neighbour.Result {
	_ = nb.stdin.Close() // it ends with its input
	for r := range nb.results {
		nb.last = r
	}
	<-nb.process.Done()
	return nb.last
}

func (x *hostileRun) spec(n int) (spec neighbour.Spec, err error) {
	t := &x.stage.target
	spec = neighbour.Spec{
		Kind: x.kind, Channels: x.names, Each: x.each, Count: x.count, Rate: x.rate * float64(n),
		LastID: x.lastID, Until: until,
	}
	if !x.scaled {
		spec.Count *= n
	}
	if spec.Addr, err = t.Addr(); err != nil {
		return spec, err
	}
	if spec.Request, err = t.Request(); err != nil {
		return spec, err
	}
	spec.Key = spec.Request[0][strings.LastIndexAny(spec.Request[0], "?&")+1:]
	if strings.HasPrefix(spec.Key, "GET ") {
		return spec, fmt.Errorf("target %s: the channel is no parameter of the query", t.Name)
	}
	spec.Key = "&" + spec.Key
	spec.Sources = x.stage.sources(spec.Addr.Addr(), 20*connsPerSource)
	return spec, nil
}
