package main

import (
	"context"
	"encoding/json"

	"ssed/internal/admin"
)

// report is what others are told.
func (s *server) report() []byte {
	text, err := json.Marshal(s.self())
	if err != nil {
		panic(err) // text, numbers and times always have a JSON form
	}
	return text
}

// fleetView is the fleet for the admin listener.
type fleetView struct{ *server }

// Instances implements admin.Fleet. What this instance tells of itself is of now.
func (v fleetView) Instances(ctx context.Context) ([]admin.Instance, error) {
	members, err := v.Fleet.Members(ctx)
	if err != nil {
		return nil, err
	}
	self := v.self()
	list, listed := make([]admin.Instance, 0, len(members)+1), false
	for _, m := range members {
		if m.Name == self.Instance {
			list, listed = append(list, self), true
			continue
		}
		var in admin.Instance
		_ = json.Unmarshal(m.Report, &in) // of another version: what can be read of it; it is there in any case
		in.Instance, in.Seen, in.Self = m.Name, m.Seen, false
		list = append(list, in)
	}
	if !listed {
		list = append(list, self)
	}
	return list, nil
}

// Subscribers implements admin.Fleet.
func (v fleetView) Subscribers(ctx context.Context, channel string) (admin.Spread, error) {
	found, err := v.Fleet.Subscribers(ctx, channel)
	out := admin.Spread{Asked: found.Asked, Answered: len(found.Shares)}
	for _, share := range found.Shares {
		out.Subscribers += share.Streams
		out.Instances = append(out.Instances, admin.InstanceShare{Instance: share.Instance, Subscribers: share.Streams})
	}
	return out, err
}
