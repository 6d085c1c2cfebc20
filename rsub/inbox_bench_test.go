package rsub

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// BenchmarkIngest is the way of a message of 256 bytes from a backend into the
// history, by PUBLISH and by XADD to the inbox, over all instances in this process.
func BenchmarkIngest(b *testing.B) {
	for _, by := range []string{"publish", "inbox"} {
		for _, instances := range []int{1, 3} {
			b.Run(fmt.Sprintf("by=%s/instances=%d", by, instances), func(b *testing.B) {
				s := redistest.Start(b)
				var gateways []*gateway
				for i := range instances {
					gateways = append(gateways, startGateway(b, s, fmt.Sprint("g", i)))
				}
				waitWritten(b, gateways...)
				written := func() (n uint64) {
					for _, g := range gateways {
						n += g.store.Stats().Appended
					}
					return n
				}
				c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, ForceSingleClient: true, DisableCache: true, PipelineMultiplex: -1})
				require.NoError(b, err)
				defer c.Close()
				data := strings.Repeat("x", 256)
				b.ResetTimer()
				for sent := 0; sent < b.N; sent += 100 {
					var cmds rueidis.Commands
					for i := sent; i < min(sent+100, b.N); i++ {
						channel := fmt.Sprint("ch:", i%100)
						if by == "publish" {
							cmds = append(cmds, c.B().Publish().Channel(channel).Message(data).Build())
						} else {
							cmds = append(cmds, c.B().Xadd().Key(testInbox).Id("*").FieldValue().FieldValue("channel", channel).FieldValue("data", data).Build())
						}
					}
					for _, res := range c.DoMulti(context.Background(), cmds...) {
						require.NoError(b, res.Error())
					}
				}
				for written() < uint64(b.N) {
					<-time.After(time.Millisecond)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}
