package rsub

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redislua"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// TestModelJudgesServersAsTheScriptDoes: what the model takes for the order of a server is what
// the scripts of rstore take for it. Servers come back, are forgotten, or were never there.
func TestModelJudgesServersAsTheScriptDoes(t *testing.T) {
	t.Parallel()
	common, err := os.ReadFile("../rstore/common.lua")
	require.NoError(t, err)
	s := redistest.Start(t)
	sha, _ := do(t, s, "SCRIPT", "LOAD", redislua.IDs+string(common)+`
		return belongs(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]) and 1 or 0`).(string)
	rng := rand.New(rand.NewPCG(7, 7))
	position := func() sseproto.ID { return sseproto.ID{Ms: rng.Uint64N(60), Seq: rng.Uint64N(2)} }
	judged := map[bool]int{}
	for range 3000 {
		r := &modelRedis{noted: true, t: 50}
		for from := uint64(rng.IntN(2) * 5); len(r.orders) < 1+rng.IntN(maxOrders+1) && len(r.orders) < maxOrders; from += 1 + rng.Uint64N(15) {
			r.orders = append(r.orders, modelOrder{pick(rng, []string{"a", "b", "c"}), from})
		}
		server, after, through := pick(rng, []string{"a", "b", "c", "d", ""}), position(), position()
		if through.Less(after) {
			after, through = through, after
		}
		want := do(t, s, "EVALSHA", sha, "0", r.told(), strconv.FormatUint(r.t, 10), server, after.String(), through.String()) == int64(1)
		require.Equal(t, want, r.belongs(server, after, through), "%q behind %v, up to %v: %s", server, after, through, r.told())
		judged[want]++
	}
	require.Greater(t, min(judged[true], judged[false]), 300, fmt.Sprint(judged))
}
