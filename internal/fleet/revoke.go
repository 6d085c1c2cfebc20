package fleet

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
)

// maxRevoked is how many bearers are kept out at a time.
const maxRevoked = 10_000

// ErrTooManyRevoked means that no more bearers can be kept out.
var ErrTooManyRevoked = errors.New("fleet: too many are kept out")

var (
	//go:embed revoke.lua
	revokeLua    string
	revokeScript = redisconn.NewScript(redisconn.AllowOOM, revokeLua)
	//go:embed revoked.lua
	revokedLua    string
	revokedScript = redisconn.NewScript(redisconn.AllowOOM, revokedLua)
)

// Revoke keeps a bearer out of all instances for a while, those that begin later too. Each
// learns of it with its next report, at most an interval later; Close tells them at once.
func (f *Fleet) Revoke(ctx context.Context, bearer string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	client, err := f.current()
	if err != nil {
		return err
	}
	err = revokeScript.Run(ctx, client, []string{f.keys.Revoked},
		[]string{bearer, millis(d), strconv.Itoa(maxRevoked)}).Error()
	switch {
	case err == nil, rueidis.IsRedisNil(err): // the script returns nothing
		return nil
	case redisconn.Code(err) == "TOOMANY":
		return ErrTooManyRevoked
	}
	return fmt.Errorf("fleet: revoke: %w", err)
}

// learn tells Config.Revoked of who is kept out, as reports meet changes of the list. A
// version that cannot be read is met again.
func (f *Fleet) learn(ctx context.Context) {
	for {
		select {
		case version := <-f.versions:
			if version == f.version {
				continue
			}
			if err := f.learnVersion(ctx, version); err != nil && ctx.Err() == nil {
				f.counters.learnErrors.Add(1)
			}
		case <-ctx.Done():
			return
		}
	}
}

// learnVersion tells of those that are new, or stay longer, and of those whose streams could
// not be closed the last time.
func (f *Fleet) learnVersion(ctx context.Context, version string) error {
	client, err := f.current()
	if err != nil {
		return err
	}
	list, err := f.listRevoked(ctx, client)
	if err != nil {
		return err
	}
	var failed error
	known := make(map[string]string, len(list)/3)
	for i := 0; i+2 < len(list); i += 3 {
		bearer, until := list[i], list[i+1]
		known[bearer] = until
		if f.revoked[bearer] == until {
			continue
		}
		left, err := strconv.ParseInt(list[i+2], 10, 64)
		if err != nil {
			return fmt.Errorf("fleet: revoked: %w", err)
		}
		if f.cfg.Revoked == nil {
			continue
		}
		if err := f.cfg.Revoked(ctx, bearer, time.Duration(left)*time.Millisecond); err != nil {
			failed = err
			delete(known, bearer)
		}
	}
	if f.revoked = known; failed != nil {
		return fmt.Errorf("fleet: revoked: %w", failed)
	}
	f.version = version
	return nil
}

func (f *Fleet) listRevoked(ctx context.Context, client rueidis.Client) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	list, err := revokedScript.Run(ctx, client, []string{f.keys.Revoked}, nil).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("fleet: revoked: %w", err)
	}
	return list, nil
}
