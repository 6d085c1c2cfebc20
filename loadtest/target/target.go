package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Placeholder is replaced by the channel name in templates.
const Placeholder = "{channel}"

// ErrNotLoopback is returned for an address of another host, or of this host as
// others see it.
var ErrNotLoopback = errors.New("not a loopback address")

// Target is a server under test.
type Target struct {
	// Name labels the results.
	Name string
	// URL is the stream URL with Placeholder in it.
	URL string
	// Publish says where messages are sent, see NewPublisher. Empty: only
	// scenarios without messages can run.
	Publish string
	// Depth is how many publish commands may wait for their answer; 0: a default
	// by protocol.
	Depth int
	// Headers are added to each stream request.
	Headers []string
	// PIDs are the processes whose CPU and memory count.
	PIDs []int
	// RedisPIDs are the processes of the Redis that messages go through; their CPU
	// is shown by itself.
	RedisPIDs []int
	// Resumes: the server understands Last-Event-ID.
	Resumes bool
}

// Parse reads a target from "key=value" pairs separated by semicolons: name,
// url, publish, pid and redis_pid (comma lists), depth, header (may repeat), resume (yes or no).
func Parse(text string) (Target, error) {
	t := Target{Resumes: true}
	for pair := range strings.SplitSeq(text, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return t, fmt.Errorf("target: %q is not key=value", pair)
		}
		if err := t.set(strings.TrimSpace(key), strings.TrimSpace(value)); err != nil {
			return t, fmt.Errorf("target: %s: %w", key, err)
		}
	}
	if t.Name == "" || t.URL == "" {
		return t, errors.New("target: name and url are required")
	}
	_, err := t.Request()
	return t, err
}

func (t *Target) set(key, value string) (err error) {
	switch key {
	case "name":
		t.Name = value
	case "url":
		t.URL = value
	case "publish":
		t.Publish = value
	case "depth":
		t.Depth, err = strconv.Atoi(value)
	case "header":
		if strings.ContainsAny(value, "\r\n") || !strings.Contains(value, ":") {
			return errors.New("want Name: value")
		}
		t.Headers = append(t.Headers, value)
	case "pid":
		t.PIDs, err = parsePIDs(value)
	case "redis_pid":
		t.RedisPIDs, err = parsePIDs(value)
	case "resume":
		if t.Resumes = value == "yes"; value != "yes" && value != "no" {
			return errors.New("want yes or no")
		}
	default:
		return errors.New("unknown key")
	}
	return err
}

func parsePIDs(list string) (pids []int, err error) {
	for word := range strings.SplitSeq(list, ",") {
		pid, err := strconv.Atoi(word)
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("%q is not a process id", word)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Request returns the request head without its last empty line, split where the
// channel goes.
func (t *Target) Request() ([]string, error) {
	u, err := url.Parse(strings.ReplaceAll(t.URL, Placeholder, "CHANNEL"))
	if err != nil {
		return nil, fmt.Errorf("target: url: %w", err)
	}
	if u.Scheme != "http" {
		return nil, fmt.Errorf("target: url %q: only http is spoken; put TLS in front of both sides if you must", t.URL)
	}
	if strings.Contains(u.Host, "CHANNEL") {
		return nil, fmt.Errorf("target: url %q: %s can not be in the host", t.URL, Placeholder)
	}
	rest := t.URL[strings.Index(t.URL, "://")+len("://"):]
	path := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		path = "/" + strings.TrimPrefix(rest[i:], "/")
	}
	if strings.ContainsAny(path, " \r\n#") {
		return nil, fmt.Errorf("target: url %q: spaces, line ends and # must be escaped", t.URL)
	}
	head := "GET " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nAccept: text/event-stream\r\n"
	for _, h := range t.Headers {
		head += h + "\r\n"
	}
	return strings.Split(head, Placeholder), nil
}

// Addr resolves the host of the stream URL.
func (t *Target) Addr() (netip.AddrPort, error) {
	u, err := url.Parse(strings.ReplaceAll(t.URL, Placeholder, "x"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target: url: %w", err)
	}
	return resolve(u.Host, "80")
}

// CheckLoopback returns ErrNotLoopback unless streams and publishing both stay
// on this host.
func (t *Target) CheckLoopback() error {
	stream, err := t.Addr()
	if err != nil {
		return err
	}
	if !stream.Addr().IsLoopback() {
		return fmt.Errorf("target %s: %v: %w", t.Name, stream.Addr(), ErrNotLoopback)
	}
	if t.Publish == "" {
		return nil
	}
	at, err := publishAddr(t.Publish)
	if err != nil {
		return err
	}
	if !at.Addr().IsLoopback() {
		return fmt.Errorf("target %s: publish to %v: %w", t.Name, at.Addr(), ErrNotLoopback)
	}
	return nil
}

// resolve looks a host up; the first address counts. A name is resolved once, so
// what was checked is what is connected to.
func resolve(hostport, defaultPort string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = strings.Trim(hostport, "[]"), defaultPort
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target: %q: bad port", hostport)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a.Unmap(), uint16(number)), nil
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target: %w", err)
	}
	a, _ := netip.AddrFromSlice(ips[0])
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), nil
}
