package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Member is an instance that is there.
type Member struct {
	Name   string
	Seen   time.Time // when it last said so, by the clock of Redis
	Report []byte    // what its Config.Report gave
}

var errReport = errors.New("fleet: malformed report")

// Members lists the instances that are there, up to 1000, by name. This one is among
// them once its first report was taken.
func (f *Fleet) Members(ctx context.Context) ([]Member, error) {
	client, err := f.current()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	names, err := client.Do(ctx, client.B().Zrange().Key(f.keys.Instances).Min("0").Max(strconv.Itoa(maxListed-1)).Build()).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("fleet: list: %w", err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	slices.Sort(names)
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = f.keys.Instance(name)
	}
	texts, err := client.Do(ctx, client.B().Mget().Key(keys...).Build()).ToArray()
	if err != nil {
		return nil, fmt.Errorf("fleet: list: %w", err)
	}
	var list []Member
	for i, text := range texts {
		m, err := parseMember(names[i], &text)
		if rueidis.IsRedisNil(err) {
			continue // gone; the index forgets it with the next beat of anyone
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// parseMember reads "ms report".
func parseMember(name string, value *rueidis.RedisMessage) (Member, error) {
	text, err := value.ToString()
	if err != nil {
		return Member{}, err
	}
	seen, report, ok := strings.Cut(text, " ")
	ms, err := strconv.ParseInt(seen, 10, 64)
	if !ok || err != nil {
		return Member{}, fmt.Errorf("%w of %q", errReport, name)
	}
	return Member{Name: name, Seen: time.UnixMilli(ms), Report: []byte(report)}, nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
