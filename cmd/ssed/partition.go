package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/rsub"
	"ssed/sseproto"
)

// partitionCommand is ssed partition. It asks nobody: the names follow from the flags.
type partitionCommand struct {
	Channels []string `arg:"" optional:"" name:"channel" help:"Channels to look up."`

	All  bool `env:"-" help:"List the partitions instead."`
	JSON bool `name:"json" env:"-" help:"Print a line of JSON for each."`

	Partitions   string `default:"1" placeholder:"N" help:"As the instances have it."`
	StreamPrefix string `default:"sse:stream:" placeholder:"TEXT" help:"As the instances have it."`
	Inbox        string `default:"auto" placeholder:"KEY" help:"As the instances have it."`
	RedisURL     string `name:"redis-url" placeholder:"URL" help:"As the instances have it. Nothing connects: with one partition, a Redis Cluster has other names than one server."`
	RedisURLFile string `name:"redis-url-file" placeholder:"PATH" help:"File that holds the URL."`

	ConfigFile string `name:"config" group:"file" placeholder:"PATH" help:"YAML file of \"ssed serve\", of which the values of these flags are taken."`
}

// Help implements kong.HelpProvider.
func (partitionCommand) Help() string {
	return `Prints to which partition a channel belongs, and the names in Redis that go with it: the shard channel to SPUBLISH on, the stream with the history, and the inbox. A publisher computes the same: the partition is the CRC-32 of the channel, modulo the number of partitions.`
}

// partitionNames is what belongs to a partition, and to one of its channels.
type partitionNames struct {
	Channel      string `json:"channel,omitempty"` // "": none in particular
	Partition    int    `json:"partition"`
	Slot         int    `json:"slot"`
	ShardChannel string `json:"shard_channel"`
	Stream       string `json:"stream"` // without a channel what the names of all streams begin with
	Inbox        string `json:"inbox"`  // "": off
}

func (c *partitionCommand) run(inv *invocation, stdout, stderr io.Writer) int {
	list, err := c.list(inv)
	if err != nil {
		return usageError(stderr, inv.command, inv.located(err))
	}
	write := writeNames
	if c.JSON {
		write = writeNamesJSON
	}
	if err := write(stdout, list, c.All); err != nil {
		return failed(stderr, err)
	}
	return exitOK
}

// list checks everything and finds the names.
func (c *partitionCommand) list(inv *invocation) (list []partitionNames, err error) {
	var p problems
	if err := inv.complete(c.ConfigFile); err != nil {
		p = append(p, err)
	}
	option, _ := p.redis(redisFlags{url: c.RedisURL, urlFile: c.RedisURLFile})
	prefix := p.prefix("--stream-prefix", c.StreamPrefix)
	partitions := p.partitions("--partitions", c.Partitions)
	inbox := c.inbox()
	switch {
	case c.All && len(c.Channels) > 0:
		p.add("--all", "it is for all partitions, and a channel has one")
	case !c.All && len(c.Channels) == 0:
		p.add("CHANNEL", "name one, or give --all")
	}
	for q := range partitions {
		if c.All {
			list = append(list, namesOf(option, prefix, inbox, redisconn.Partition{Number: q, Of: partitions}))
		}
	}
	for _, channel := range c.Channels {
		p.channel("CHANNEL", channel)
		names := namesOf(option, prefix, inbox, partitionOf(channel, partitions))
		names.Channel, names.Stream = channel, names.Stream+channel
		list = append(list, names)
	}
	return list, errors.Join(p...)
}

// inbox is the name that is configured, "" for none.
func (c *partitionCommand) inbox() string {
	switch c.Inbox {
	case autoInbox:
		return redisconn.DefaultInbox(c.StreamPrefix)
	case "off":
		return ""
	}
	return c.Inbox
}

func namesOf(option rueidis.ClientOption, prefix, inbox string, p redisconn.Partition) partitionNames {
	keys := redisconn.KeysOf(option, prefix, p)
	names := partitionNames{Partition: p.Number, Slot: keys.Slot, ShardChannel: keys.Messages, Stream: keys.Prefix}
	if inbox != "" {
		names.Inbox = keys.Inbox(inbox)
	}
	return names
}

// partitionOf is the partition of a channel.
func partitionOf(channel string, partitions int) redisconn.Partition {
	return redisconn.Partition{Number: sseproto.PartitionOf(channel, partitions), Of: partitions}
}

// partitions reads how many there are.
func (p *problems) partitions(flag, text string) int {
	n := p.count(flag, text)
	if n > sseproto.MaxPartitions {
		p.add(flag, "%d are more than %d", n, sseproto.MaxPartitions)
		return 1
	}
	return n
}

// prefix reads that of the streams. It has no braces: those of a name in Redis are for the
// hash tag.
func (p *problems) prefix(flag, text string) string {
	if text == "" || strings.ContainsAny(text, "{}") {
		p.add(flag, "%q is empty or has braces", text)
	}
	return text
}

// channel refuses what no message can be published on.
func (p *problems) channel(name, channel string) {
	switch {
	case channel == "" || len(channel) > sseproto.MaxChannelBytes:
		p.add(name, "%.50q is not 1 to %d bytes", channel, sseproto.MaxChannelBytes)
	case rsub.Reserved(channel):
		p.add(name, "channels that start with __ are never delivered")
	}
}

// writeNames prints a table.
func writeNames(w io.Writer, list []partitionNames, all bool) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	header, stream := "channel\t", "stream"
	if all {
		header, stream = "", "streams"
	}
	fmt.Fprintf(table, "%spartition\tslot\tshard channel\t%s\tinbox\n", header, stream)
	for _, n := range list {
		if !all {
			fmt.Fprintf(table, "%s\t", visible(n.Channel))
		}
		fmt.Fprintf(table, "%d\t%d\t%s\t%s\t%s\n", n.Partition, n.Slot, n.ShardChannel, visible(n.Stream), visible(n.Inbox))
	}
	return table.Flush()
}

func writeNamesJSON(w io.Writer, list []partitionNames, _ bool) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	for _, n := range list {
		if err := lines.Encode(n); err != nil {
			return err
		}
	}
	return nil
}
