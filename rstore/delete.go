package rstore

import (
	"context"
	"fmt"

	"ssed/internal/redisconn"
)

// Delete removes all that is stored of a channel. Who resumes from before the last
// deleted message is told (sseproto.ReasonTrimmed), who had them all is not. What
// instances still have in memory they go on serving to resumes until it leaves their
// rings. A channel without history is no error, and a second call does no harm.
func (s *Store) Delete(ctx context.Context, channel string) error {
	a := s.run(ctx, deleteScript, redisconn.Call{Keys: []string{s.keys.Clock, s.keys.Prefix + channel}})[0]
	if a.err != nil {
		return fmt.Errorf("rstore: deleting a history: %w", a.err)
	}
	s.count.deleted.Add(uint64(a.n))
	return nil
}
