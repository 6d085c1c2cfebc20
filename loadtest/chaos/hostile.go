//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"ssed/loadtest/neighbour"
	"ssed/loadtest/target"
)

// Faults that clients make. None of them may cost another client a message, or a word
// about one.
var (
	largeHistories = fault{
		"large histories", "a client every two seconds asks for all of 32 channels with 50 messages of 32 KiB each, for 12 s", true,
		func(ctx context.Context, d *damage) error {
			names, err := d.largeHistory(ctx)
			if err != nil {
				return err
			}
			return d.beside(ctx, 12*time.Second, neighbour.Spec{
				Kind: neighbour.Resumes, Channels: names, Each: len(names), Rate: 0.5, LastID: "0-0", Until: largeEnd,
			})
		},
	}
	abandonedResumes = fault{
		"abandoned resumes", "300 clients a second ask for history with an ID of their own, and leave, for 5 s", true,
		func(ctx context.Context, d *damage) error {
			return d.beside(ctx, 5*time.Second, neighbour.Spec{Kind: neighbour.Abandons, Rate: 300})
		},
	}
	neverReading = fault{
		"readers that do not read", "300 clients never read a channel with 100 messages of 8 KiB a second, for 5 s", true,
		func(ctx context.Context, d *damage) error {
			const length = 5 * time.Second
			flooding, stop := context.WithTimeout(ctx, length)
			defer stop()
			flooded := make(chan error, 1)
			go func() { flooded <- d.flood(flooding) }()
			err := d.beside(ctx, length, neighbour.Spec{Kind: neighbour.NeverReads, Count: 300, Channels: []string{floodChannel}})
			return errors.Join(err, <-flooded)
		},
	}
	resetting = fault{
		"resets at random bytes", "300 connections a second that are reset at a random byte, for 5 s", true,
		func(ctx context.Context, d *damage) error {
			return d.beside(ctx, 5*time.Second, neighbour.Spec{Kind: neighbour.Resets, Rate: 300})
		},
	}
	halfHeads = fault{
		"half-open heads", "500 connections that send half a request, for 7 s: they are closed, and come back", true,
		func(ctx context.Context, d *damage) error {
			return d.beside(ctx, 7*time.Second, neighbour.Spec{Kind: neighbour.HalfHead, Count: 500})
		},
	}
	freshNames = fault{
		"new channel names", "3,200 channel names a second that nobody had before, for 5 s", true,
		func(ctx context.Context, d *damage) error {
			return d.beside(ctx, 5*time.Second, neighbour.Spec{Kind: neighbour.FreshName, Each: 32, Rate: 100})
		},
	}
)

// The channels of large histories are nobody else's.
const (
	largeChannels = 32
	largeMessages = 50
	largeBytes    = 32 << 10
	largeEnd      = "the end of the large history"
)

// largeHistory publishes it, unless it is there. A message of each channel is in the
// history before the next is published: the rings hold a few of them only.
func (d *damage) largeHistory(ctx context.Context) (names []string, err error) {
	for i := range largeChannels {
		names = append(names, fmt.Sprintf("chaos:large-%d", i))
	}
	last := d.keys.Stream(names[largeChannels-1])
	if n, err := d.do("XLEN", last); err != nil || n != int64(0) {
		return names, err
	}
	payload := strings.Repeat("l", largeBytes)
	for n := range largeMessages + 1 {
		if n == largeMessages {
			payload = largeEnd
		}
		for _, name := range names {
			if _, err := d.do("PUBLISH", name, payload); err != nil {
				return nil, err
			}
		}
		err := poll(ctx, readyTimeout, func() error {
			got, err := d.do("XLEN", last)
			if err == nil && got != int64(n+1) {
				err = fmt.Errorf("chaos: %v of %d large messages are in the history", got, n+1)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// floodChannel is nobody else's.
const floodChannel = "chaos:flood"

// flood publishes what fills the sockets of those who do not read, until ctx ends.
func (d *damage) flood(ctx context.Context) error {
	payload := strings.Repeat("f", 8<<10)
	for d.wait(ctx, 10*time.Millisecond) == nil {
		if _, err := d.do("PUBLISH", floodChannel, payload); err != nil {
			return err
		}
	}
	return nil
}

// beside lets a neighbour play at one instance for a time, and looks at what it does to
// the instance: its memory, and how long a lawful resume takes.
func (d *damage) beside(ctx context.Context, length time.Duration, spec neighbour.Spec) error {
	in := d.hits(d.any(d.rng))
	addr := in.public.Load()
	if addr == nil {
		return fmt.Errorf("chaos: %s is down", in.name())
	}
	var err error
	if spec.Addr, err = netip.ParseAddrPort(*addr); err != nil {
		return err
	}
	spec.Request = []string{"GET /sse/connect?channel_id=", " HTTP/1.1\r\nHost: chaos\r\nAccept: text/event-stream\r\n"}
	spec.Key = "&channel_id="
	if spec.Channels == nil {
		spec.Channels = []string{channelName(0), channelName(1)}
	}
	before, err := target.ReadMemory([]int{in.pid()})
	if err != nil {
		return err
	}
	playing, stop := context.WithTimeout(ctx, length)
	defer stop()
	var played sync.WaitGroup
	var did neighbour.Result
	var playErr error
	played.Go(func() { did, playErr = neighbour.Play(playing, spec, func() error { return nil }) })
	most, slowest := before.RSS, time.Duration(0)
	for playing.Err() == nil {
		if now, err := target.ReadMemory([]int{in.pid()}); err == nil {
			most = max(most, now.RSS)
		}
		took, err := d.lawfulResume(*addr)
		if err != nil && playing.Err() == nil {
			playErr = errors.Join(playErr, err)
			stop()
		}
		slowest = max(slowest, took)
		_ = d.wait(playing, 50*time.Millisecond) // its end ends the loop
	}
	played.Wait()
	d.note = fmt.Sprintf("%d opened, %d done, %d failed; memory +%d MiB at most, slowest resume of a neighbour %d ms",
		did.Opened, did.Done, did.Failed, (most-before.RSS)>>20, slowest.Milliseconds())
	if did.Opened+did.Done == 0 {
		playErr = errors.Join(playErr, errors.New("chaos: the neighbour did nothing"))
	}
	return playErr
}

// resumeTimeout is how long a lawful resume may take until it counts as refused.
const resumeTimeout = 20 * time.Second

// lawfulResume asks for the newest message of a channel again, and returns how long its
// head and its first event take.
func (d *damage) lawfulResume(addr string) (time.Duration, error) {
	reply, err := d.do("XREVRANGE", d.keys.Stream(channelName(2)), "+", "-", "COUNT", "2")
	if err != nil {
		return 0, err
	}
	newest, _ := reply.([]any)
	if len(newest) < 2 {
		return 0, nil // nothing to ask for yet
	}
	id, _ := newest[1].([]any)[0].(string)
	began := time.Now()
	conn, err := net.DialTimeout("tcp", addr, resumeTimeout)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(began.Add(resumeTimeout)) // fails on a closed connection only
	if _, err := fmt.Fprintf(conn, "GET /sse/connect?channel_id=%s HTTP/1.1\r\nHost: chaos\r\nLast-Event-ID: %s\r\n\r\n", channelName(2), id); err != nil {
		return 0, err
	}
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if strings.HasPrefix(line, "id: ") || strings.HasPrefix(line, "id:") {
			return time.Since(began), nil
		}
		if err == io.EOF {
			err = errors.New("chaos: the stream of a lawful resume ended")
		}
		if err != nil {
			return 0, err
		}
	}
}
