// Package clusternodes reads the answer to CLUSTER NODES: what one node of a Redis Cluster
// knows of all of them.
package clusternodes

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// Node is a node of a cluster as another one, or itself, sees it.
type Node struct {
	ID        string
	Addr      string // for clients; "" when the node that was asked does not know its own yet
	Host      string // the name that it announces with the port for clients; "" for none
	IsMyself  bool   // it is the one that was asked
	IsPrimary bool
	HasFailed bool   // so many think; or the one that was asked, and it asks the others
	Primary   string // ID of the one that it follows; "" for a primary
	Epoch     uint64 // of its configuration: of two that claim a slot the one with the greater has it
	Slots     []Range
}

// Range is slots from the first to the last one, both included.
type Range struct{ First, Last int }

// Has reports whether the node serves the slot.
func (n *Node) Has(slot int) bool {
	return slices.ContainsFunc(n.Slots, func(r Range) bool { return r.First <= slot && slot <= r.Last })
}

// Parse reads the answer. A line that cannot be read is left out: versions add to them.
//
//	<id> <ip:port@cport[,hostname[,…]]> <flags> <primary> <ping> <pong> <epoch> <link> <slot> …
func Parse(text string) (nodes []Node) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		n := Node{ID: f[0]}
		n.Addr, n.Host = parseAddress(f[1])
		flags := strings.Split(f[2], ",")
		n.IsMyself, n.IsPrimary = slices.Contains(flags, "myself"), slices.Contains(flags, "master")
		n.HasFailed = slices.Contains(flags, "fail") || slices.Contains(flags, "fail?")
		if f[3] != "-" {
			n.Primary = f[3]
		}
		n.Epoch, _ = strconv.ParseUint(f[6], 10, 64)
		for _, text := range f[8:] {
			if r, ok := parseRange(text); ok {
				n.Slots = append(n.Slots, r)
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func parseAddress(text string) (addr, host string) {
	words := strings.Split(text, ",")
	at, _, _ := strings.Cut(words[0], "@")
	i := strings.LastIndexByte(at, ':') // an IPv6 address has no brackets here
	if i < 0 {
		return "", ""
	}
	ip, port := at[:i], at[i+1:]
	if ip != "" {
		addr = net.JoinHostPort(ip, port)
	}
	if len(words) > 1 && words[1] != "" && !strings.Contains(words[1], "=") {
		host = net.JoinHostPort(words[1], port)
	}
	return addr, host
}

// parseRange reads "5" and "0-5460". A slot on the move, "[5->-id]", is still where it was.
func parseRange(text string) (r Range, ok bool) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	return Range{a, b}, err == nil && err2 == nil
}
