package redisconn

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// TestPartitionsAreEvenlySpread over primaries that have equal shares of the slots.
func TestPartitionsAreEvenlySpread(t *testing.T) {
	for _, primaries := range []int{1, 2, 3, 4, 8} {
		for _, each := range []int{1, 2, 5} {
			of := primaries * each
			count := make([]int, primaries)
			tags := map[string]bool{}
			for i := range of {
				tag := Partition{i, of}.Tag()
				tags[tag] = true
				count[SlotOf(tag)*primaries/Slots]++
			}
			require.Len(t, tags, of)
			for _, n := range count {
				require.Equal(t, each, n, "%d partitions on %d primaries: %v", of, primaries, count)
			}
		}
	}
	require.Equal(t, wholeTag, Partition{0, 1}.Tag())
	require.Equal(t, Slots/2, SlotOf(wholeTag), "in the middle")
}

// TestNamesOfAPartitionHaveOneSlot, by the words of Redis: a script can touch all of them.
func TestNamesOfAPartitionHaveOneSlot(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--cluster-enabled", "yes")
	for _, prefix := range []string{"sse:stream:", "chat:"} {
		for _, p := range []Partition{{}, {0, 3}, {2, 3}, {15, 16}} {
			k := MakePartitionKeys(prefix, p)
			inbox := k.Inbox(DefaultInbox(prefix))
			for _, name := range []string{
				k.Clock, k.Lease, k.Gaps, k.Rejected, k.InboxNotes, k.Instances, k.Revoked, k.Control, k.Messages, k.Prefixes,
				k.Stream("user123"), k.Stream("{a}b"), k.Instance("a"), k.Owner("a"), k.Reply("f"), k.Doctor("f"),
				inbox, Refused(inbox), InboxOwner(inbox),
			} {
				slot, err := s.Do("CLUSTER", "KEYSLOT", name)
				require.NoError(t, err)
				require.EqualValues(t, k.Slot, slot, "%s of %v", name, p)
			}
			require.EqualValues(t, k.Slot, SlotOf(p.Tag()))
		}
	}
}

func TestPartitionIsInTheNames(t *testing.T) {
	k := MakePartitionKeys("sse:stream:", Partition{})
	require.Equal(t, []string{
		"sse:stream:{8209}user123", "{8209}sse:stream::clock", "__ssed:{8209}sse:stream:", "sse:inbox:{8209}", "sse:{8209}", "{8209}ssed:prefixes",
	}, []string{k.Stream("user123"), k.Clock, k.Control, k.Inbox("sse:inbox"), k.Messages, k.Prefixes})
	require.Equal(t, "messages:chat:{8209}", MakePartitionKeys("chat:", Partition{}).Messages)
	require.True(t, strings.HasPrefix(k.Clock, k.Own()))
}

// TestKeysFollowTheServer: one server and one partition have the names that they always had.
func TestKeysFollowTheServer(t *testing.T) {
	f := func(url string, p Partition, want Keys) {
		t.Helper()
		o, err := rueidis.ParseURL(url)
		require.NoError(t, err)
		require.Equal(t, want, KeysOf(o, "p:", p))
	}
	f("redis://a", Partition{}, MakeKeys("p:"))
	f("redis://a", Partition{0, 1}, MakeKeys("p:"))
	f("redis://a/2", Partition{}, MakeKeys("p:").InDatabase(2))
	f("redis://a?addr=b&master_set=m", Partition{}, MakeKeys("p:"))
	f("redis://a?addr=b", Partition{}, MakePartitionKeys("p:", Partition{}))
	f("redis://a", Partition{1, 2}, MakePartitionKeys("p:", Partition{1, 2}))
	f("redis://a/2", Partition{1, 2}, MakePartitionKeys("p:", Partition{1, 2}).InDatabase(2))
}
