package doctor

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	// windowScans of windowScan keys each are looked through for histories.
	windowScans, windowScan = 100, 1000
	// windowStreams is how many histories are looked at.
	windowStreams = 1000
)

// kept is what XINFO tells of the history of a channel.
type kept struct {
	channel     string
	length      int64
	trimmed     bool
	first, last time.Time
	window      time.Duration // how far back it should reach
}

// span is how much time the history holds.
func (k *kept) span() time.Duration { return k.last.Sub(k.first) }

// perSecond is the rate of its messages.
func (k *kept) perSecond() float64 {
	return float64(k.length) / max(k.span(), time.Millisecond).Seconds()
}

// window compares, for the channels that are busy now, how much time their histories
// hold with Redis.Window.
func (d *redisDoctor) window(ctx context.Context) {
	const check = "history window"
	if !d.History || d.Window <= 0 {
		return
	}
	streams, err := d.streams(ctx)
	if err != nil {
		d.skip(check, "this user may not SCAN: "+err.Error())
		return
	}
	histories, err := d.histories(ctx, streams)
	if err != nil {
		d.skip(check, "XINFO: "+err.Error())
		return
	}
	now, err := d.timeOfRedis(ctx)
	if err != nil {
		d.skip(check, "TIME: "+err.Error())
		return
	}
	busy := 0
	var worst *kept
	for i := range histories {
		k := &histories[i]
		if k.window = d.Window; d.WindowOf != nil {
			k.window = d.WindowOf(k.channel)
		}
		if now.Sub(k.last) > k.window {
			continue
		}
		busy++
		if k.trimmed && k.span() < k.window && (worst == nil || worst.perSecond() < k.perSecond()) {
			worst = k
		}
	}
	if busy == 0 {
		d.ok(check, fmt.Sprintf("no channel had a message within %v", d.Window))
		return
	}
	if worst == nil {
		d.ok(check, fmt.Sprintf("channels with messages within %v: %d; no history that was trimmed is shorter than that", d.Window, busy))
		return
	}
	d.warn(check, fmt.Sprintf("channel %q has %.0f messages/s, and its history reaches back %v of %v: clients who change to another instance may miss some",
		worst.channel, worst.perSecond(), worst.span().Round(time.Millisecond), worst.window),
		fmt.Sprintf("--history-cap %.0f on all instances, or a shorter --history-window", math.Ceil(worst.perSecond()*worst.window.Seconds()*1.2)))
}

// streams finds histories, the first that Redis comes across.
func (d *redisDoctor) streams(ctx context.Context) (streams []string, err error) {
	cursor := uint64(0)
	for range windowScans {
		page, err := d.client.Do(ctx, d.client.B().Scan().Cursor(cursor).Match(globEscape(d.keys.Prefix)+"*").Count(windowScan).Type("stream").Build()).AsScanEntry()
		if err != nil {
			return nil, err
		}
		streams = append(streams, page.Elements...)
		if cursor = page.Cursor; cursor == 0 || len(streams) >= windowStreams {
			break
		}
	}
	return streams[:min(len(streams), windowStreams)], nil
}

// globEscape takes a text as it is in a pattern of Redis.
func globEscape(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}

func (d *redisDoctor) histories(ctx context.Context, streams []string) ([]kept, error) {
	cmds := make(rueidis.Commands, len(streams))
	for i, key := range streams {
		cmds[i] = d.client.B().XinfoStream().Key(key).Build()
	}
	var all []kept
	for i, r := range d.client.DoMulti(ctx, cmds...) {
		fields, err := r.AsMap()
		if _, isAnswer := rueidis.IsRedisErr(err); isAnswer {
			continue // it expired
		}
		if err != nil {
			return nil, err
		}
		length, last, first := fields["length"], fields["last-generated-id"], fields["first-entry"]
		added := fields["entries-added"]
		k := kept{channel: strings.TrimPrefix(streams[i], d.keys.Prefix)}
		k.length, _ = length.AsInt64()
		total, _ := added.AsInt64()
		k.trimmed = total > k.length
		pair, err := first.ToArray()
		if err != nil || len(pair) == 0 {
			continue // it is empty
		}
		k.first, k.last = timeOfID(pair[0]), timeOfID(last)
		all = append(all, k)
	}
	return all, nil
}

func timeOfID(m rueidis.RedisMessage) time.Time {
	text, _ := m.ToString()
	ms, _, _ := strings.Cut(text, "-")
	n, _ := strconv.ParseInt(ms, 10, 64) // entries of others may have any ID
	return time.UnixMilli(n)
}

func (d *redisDoctor) timeOfRedis(ctx context.Context) (time.Time, error) {
	answer, err := d.client.Do(ctx, d.client.B().Time().Build()).AsStrSlice()
	if err != nil {
		return time.Time{}, err
	}
	return redisTime(answer)
}
